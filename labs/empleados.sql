CREATE TABLE empleados (
    id           integer PRIMARY KEY,
    nombre       text NOT NULL,
    departamento text NOT NULL,
    salario      numeric(10,2) NOT NULL,
    alta         date NOT NULL
);
INSERT INTO empleados
SELECT n,
       'Empleado ' || n,
       (ARRAY['Ventas', 'Compras', 'Sistemas', 'Finanzas'])[1 + n % 4],
       18000 + n * 37 % 42000,
       date '2015-01-01' + n % 3650
FROM generate_series(1, 10000) AS n;
