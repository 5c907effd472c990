# shellcheck shell=bash
# What every lab stands on: a scratch folder with PostgreSQL clusters of its
# own, functions that print each command before they run it, and `prove`,
# which compares and stops the lab where the comparison fails.
#
# A lab sources this file and calls `open_lab TITLE "$@"`. From then on:
#
#   $SCRATCH             the folder that holds everything, removed at the end
#   $BIN                 pitr-archive and pitr-restore
#   $PITR_REPO           where the lab's repository is (not created yet)
#   $PRIMARY             data directory of the server called "primary"
#
# The servers listen on a private Unix socket below $SCRATCH and on no TCP
# port at all, so nothing here can meet a cluster that already runs.
#
# Environment:
#   PG_BIN               folder of initdb and pg_ctl (default: the newest below
#                        /usr/lib/postgresql, else the PATH)
#   PITR_BIN_DIR         folder of pitr-archive and pitr-restore (default:
#                        target/release, built with cargo where missing)
#   PITR_LAB_USER        who runs PostgreSQL when root starts a lab
#                        (default: postgres, else nobody)
#   PITR_LAB_KEEP=1      leave $SCRATCH behind, servers stopped
#   TMPDIR               where $SCRATCH is made (default: /tmp)

LABS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# ---------------------------------------------------------------- speaking

if [[ -t 1 ]]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' RED='' PLAIN=''
fi
STEPS=0
PROOFS=0

# step TEXT: the next step of the lab, numbered.
step() {
    STEPS=$((STEPS + 1))
    printf '\n%s%d. %s%s\n\n' "$BOLD" "$STEPS" "$1" "$PLAIN"
}

# say TEXT...: a remark to the student.
say() {
    printf '%s\n' "$*" | fold -s -w 78 | sed 's/ *$//; s/^/   /'
}

# quoted WORD...: the words as one would type them.
quoted() {
    local word line=''
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
            line+=" $word"
        else
            line+=" '${word//\'/\'\\\'\'}'"
        fi
    done
    printf '%s' "${line# }"
}

# run COMMAND...: prints the command, then runs it.
run() {
    printf '%s$ %s%s\n' "$BOLD" "$(quoted "$@")" "$PLAIN"
    "$@"
}

# run_quietly COMMAND...: the same, without what the command says on stdout.
run_quietly() {
    printf '%s$ %s%s\n' "$BOLD" "$(quoted "$@")" "$PLAIN"
    "$@" >/dev/null
}

# run_failing COMMAND...: the same as run for a command that is expected to fail; its
# exit code is left in $EXIT_CODE.
run_failing() {
    EXIT_CODE=0
    run "$@" 2>&1 || EXIT_CODE=$?
    printf '(exit code %d)\n' "$EXIT_CODE"
    if [[ $EXIT_CODE -eq 0 ]]; then
        give_up "this command should have failed"
    fi
}

# give_up TEXT: ends the lab as failed.
give_up() {
    printf '%sFAILED%s  %s\n' "$RED" "$PLAIN" "$1" >&2
    exit 1
}

# prove TEXT EXPECTED ACTUAL: the heart of every lab.
prove() {
    if [[ $2 != "$3" ]]; then
        printf '%sNOT PROVED%s  %s\n    expected: %s\n    found:    %s\n' \
            "$RED" "$PLAIN" "$1" "$2" "$3" >&2
        exit 1
    fi
    PROOFS=$((PROOFS + 1))
    printf '%sPROVED%s  %s (%s)\n' "$GREEN" "$PLAIN" "$1" "$3"
}

# prove_that TEXT COMMAND...: the same for what a command's exit code says.
prove_that() {
    local text=$1
    shift
    if ! "$@"; then
        printf '%sNOT PROVED%s  %s\n    failed: %s\n' \
            "$RED" "$PLAIN" "$text" "$(quoted "$@")" >&2
        exit 1
    fi
    PROOFS=$((PROOFS + 1))
    printf '%sPROVED%s  %s\n' "$GREEN" "$PLAIN" "$text"
}

# wait_until SECONDS TEXT COMMAND...: asks again until the command succeeds.
wait_until() {
    local seconds=$1 text=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            give_up "waited $seconds s in vain: $text"
        fi
        sleep 0.1
    done
}

# ------------------------------------------------- opening and closing a lab

# open_lab TITLE [ARGUMENT...]: makes the scratch folder and everything in it.
# Root starts the script once more as the user who may run PostgreSQL.
open_lab() {
    local title=$1
    shift
    find_postgresql
    if [[ -z ${PITR_LAB_SCRATCH:-} ]]; then
        find_commands
        make_scratch
        if [[ $EUID -eq 0 ]]; then
            hand_over_to_ordinary_user "$@"
        fi
    else
        SCRATCH=$PITR_LAB_SCRATCH
    fi
    if [[ ! -e $SCRATCH/.pitr-lab ]]; then
        echo "\"$SCRATCH\" was not made by a lab: leaving it alone" >&2
        exit 1
    fi
    trap close_lab EXIT
    INTERRUPTED=''
    trap 'INTERRUPTED=1; exit 129' HUP
    trap 'INTERRUPTED=1; exit 130' INT
    trap 'INTERRUPTED=1; exit 143' TERM
    cd "$SCRATCH" || exit

    BIN=$SCRATCH/bin
    SOCKETS=$SCRATCH/sockets
    LOGS=$SCRATCH/logs
    # shellcheck disable=SC2034  # for the labs
    PRIMARY=$SCRATCH/primary
    mkdir -p "$SOCKETS" "$LOGS" "$SCRATCH/home"

    # nothing of the caller's own servers or settings reaches the lab
    local name
    while read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(PG|PITR_)' |
        grep -vxE 'PG_BIN|PITR_LAB_KEEP' || true)
    export HOME=$SCRATCH/home PATH=$BIN:$PG_BIN:$PATH
    export PITR_REPO=$SCRATCH/repository PITR_CONFIG=$SCRATCH/pitr.toml
    export PGHOST=$SOCKETS PGPORT=5501 PGUSER=postgres PGDATABASE=postgres
    : >"$PITR_CONFIG" # an empty one, so that /etc/pitr/pitr.toml is not read

    STARTED_AT=$SECONDS
    TITLE=$title
    printf '%s%s%s\n\n' "$BOLD" "$title" "$PLAIN"
    say "$("$PG_BIN/postgres" --version), $(pitr-archive --version)"
    say "everything happens below $SCRATCH"
}

# lab_done: the last line of a lab.
lab_done() {
    printf '\n%s%s: done, %d facts proved in %d s%s\n' \
        "$BOLD" "$TITLE" "$PROOFS" $((SECONDS - STARTED_AT)) "$PLAIN"
}

# Runs at every exit: stops what was started and removes what was made.
close_lab() {
    local status=$?
    trap '' HUP INT TERM
    trap - EXIT
    set +e
    if [[ -n $INTERRUPTED ]]; then
        printf '\ninterrupted: stopping the servers, removing %s\n' "$SCRATCH" >&2
    elif [[ $status -ne 0 ]]; then
        local log
        for log in "$LOGS"/*.log "$SCRATCH"/*/pitr-start.log; do
            [[ -s $log ]] || continue
            printf '\n---- end of %s\n' "$log" >&2
            tail -n 25 "$log" >&2
        done
    fi
    local data
    for data in "$SCRATCH"/*/postmaster.pid; do
        [[ -e $data ]] || continue
        "$PG_BIN/pg_ctl" -D "${data%/postmaster.pid}" -m immediate -w -t 20 stop >/dev/null 2>&1
    done
    end_what_still_runs_here
    cd /
    if [[ -n ${PITR_LAB_KEEP:-} ]]; then
        printf 'kept: %s\n' "$SCRATCH"
    else
        rm -rf "$SCRATCH"
    fi
    exit "$status"
}

# Ends server processes whose data directory was removed below them: pg_ctl
# finds them no more, and their working directory still names it.
end_what_still_runs_here() {
    local process folder name
    for process in /proc/[0-9]*; do
        folder=$(readlink "$process/cwd" 2>/dev/null) || continue
        read -r name <"$process/comm" 2>/dev/null || continue
        if [[ $folder == "$SCRATCH"/* && $name == postgres ]]; then
            kill -KILL "${process#/proc/}" 2>/dev/null
        fi
    done
}

find_postgresql() {
    local folder newest=''
    if [[ -z ${PG_BIN:-} ]]; then
        newest=$(
            for folder in /usr/lib/postgresql/*/bin; do
                [[ -x $folder/initdb && -x $folder/postgres ]] && printf '%s\n' "$folder"
            done | sort -V | tail -n 1
        ) || true
        PG_BIN=${newest:-$(dirname "$(command -v initdb || true)")}
    fi
    for folder in initdb pg_ctl postgres psql; do
        if [[ ! -x $PG_BIN/$folder ]]; then
            echo "no $folder in \"$PG_BIN\": install PostgreSQL, or set PG_BIN to the folder of its programs" >&2
            exit 1
        fi
    done
    export PG_BIN
}

find_commands() {
    local checkout
    checkout=$(dirname "$LABS")
    BIN=${PITR_BIN_DIR:-${CARGO_TARGET_DIR:-$checkout/target}/release}
    if [[ -x $BIN/pitr-archive && -x $BIN/pitr-restore ]]; then
        return
    fi
    if [[ -n ${PITR_BIN_DIR:-} ]]; then
        echo "PITR_BIN_DIR is \"$PITR_BIN_DIR\", and pitr-archive and pitr-restore are not both in it" >&2
        exit 1
    fi
    if ! command -v cargo >/dev/null; then
        echo "pitr is not built, and cargo is not in the PATH: run scripts/setup, or set PITR_BIN_DIR" >&2
        exit 1
    fi
    echo "pitr is not built yet: building it (this happens once)"
    (cd "$checkout" && run cargo build --release --locked -p pitr-archive -p pitr-restore)
}

make_scratch() {
    local parent=${TMPDIR:-/tmp}
    # The path goes into archive_command and into the name of a socket, which
    # the system limits to 107 bytes: a plain and short one is wanted.
    if [[ ! $parent =~ ^/[A-Za-z0-9/._-]*$ || ${#parent} -gt 50 ]]; then
        parent=/tmp
    fi
    SCRATCH=$(mktemp -d "${parent%/}/pitr-lab.XXXXXX")
    trap 'rm -rf "$SCRATCH"' EXIT
    : >"$SCRATCH/.pitr-lab"
    # a copy, so that a build beside a running lab does no harm, and because a
    # checkout below /root is out of reach of the user who runs PostgreSQL
    mkdir "$SCRATCH/bin"
    cp "$BIN/pitr-archive" "$BIN/pitr-restore" "$SCRATCH/bin/"
    chmod 755 "$SCRATCH/bin" "$SCRATCH/bin"/*
}

# PostgreSQL refuses to run as root. The script is started again, from a copy,
# as a user who may, and with an environment of its own.
hand_over_to_ordinary_user() {
    local user=${PITR_LAB_USER:-postgres} script
    if ! id -u "$user" >/dev/null 2>&1; then
        user=nobody
    fi
    script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
    cp -R "$LABS" "$SCRATCH/labs"
    chown -R "$user:" "$SCRATCH"
    local become=(setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups)
    if ! command -v setpriv >/dev/null; then
        become=(runuser -u "$user" --)
    fi
    cd "$SCRATCH" || exit
    if ! "${become[@]}" test -w "$SCRATCH"; then
        echo "user \"$user\" cannot reach \"$SCRATCH\": set TMPDIR to a folder that everybody may enter" >&2
        exit 1
    fi
    echo "root may not run PostgreSQL: going on as user \"$user\""
    # the trap above does not survive exec: from here on the new process cleans up
    exec "${become[@]}" env -i PATH="$PATH" TERM="${TERM:-dumb}" LANG="${LANG:-C.UTF-8}" \
        ${TZ:+TZ="$TZ"} PG_BIN="$PG_BIN" PITR_LAB_SCRATCH="$SCRATCH" PITR_LAB_KEEP="${PITR_LAB_KEEP:-}" \
        bash "$SCRATCH/labs${script#"$LABS"}" "$@"
}

# ------------------------------------------------------------------ servers

# Every server of a lab has a name; its data directory is $SCRATCH/NAME, its
# log $LOGS/NAME.log. The port is only the number in the socket's name.
declare -A PORT=([primary]=5501)

port_of() {
    if [[ -z ${PORT[$1]:-} ]]; then
        PORT[$1]=$((5501 + ${#PORT[@]}))
    fi
}

# new_cluster NAME: initdb, with the few settings that make it private.
new_cluster() {
    local name=$1
    port_of "$name"
    run_quietly initdb -D "$SCRATCH/$name" -U postgres --auth=trust --encoding=UTF8 --locale=C \
        --data-checksums --no-sync --no-instructions
    cat >>"$SCRATCH/$name/postgresql.conf" <<SETTINGS
# the lab's own: reachable through a private socket only
listen_addresses = ''
unix_socket_directories = '$SOCKETS'
port = ${PORT[$name]}
shared_buffers = 32MB
log_line_prefix = '%m [%p] '
SETTINGS
}

# configure NAME < SETTINGS: adds settings to postgresql.conf and shows them.
configure() {
    local name=$1
    printf '%s$ cat >> %s%s\n' "$BOLD" "$SCRATCH/$name/postgresql.conf" "$PLAIN"
    tee -a "$SCRATCH/$name/postgresql.conf"
}

# restore_beside NAME OPTION...: pitr-restore into $SCRATCH/NAME, on a port of
# its own, beside the servers that run.
restore_beside() {
    local name=$1
    shift
    port_of "$name"
    run pitr-restore --to "$SCRATCH/$name" --port "${PORT[$name]}" "$@"
}

# start_server NAME: without the lab's environment, since a real server has
# none of it.
start_server() {
    local name=$1
    printf '%s$ pg_ctl -D %s -l %s start%s\n' "$BOLD" "$SCRATCH/$name" "$LOGS/$name.log" "$PLAIN"
    if ! env -u PITR_REPO -u PITR_CONFIG -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE \
        "$PG_BIN/pg_ctl" -D "$SCRATCH/$name" -l "$LOGS/$name.log" -w -t 60 start >/dev/null; then
        give_up "server \"$name\" did not start"
    fi
}

# stop_server NAME [MODE]
stop_server() {
    run_quietly pg_ctl -D "$SCRATCH/$1" -m "${2:-fast}" -w stop
}

# lose_server NAME: kill -9 of its first process, then its data directory
# removed; what remains is the repository.
lose_server() {
    local name=$1 postmaster
    postmaster=$(head -n 1 "$SCRATCH/$name/postmaster.pid")
    run kill -9 "$postmaster"
    # its children notice by themselves, and end
    wait_until 30 "the processes of server \"$name\" are gone" nobody_works_in "$SCRATCH/$name"
    # The next server on this socket is refused as long as the killed process
    # has a number, which in a container without an init it keeps as a zombie.
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        [[ -e /proc/$postmaster ]] || break
        sleep 0.1
    done
    if [[ -e /proc/$postmaster ]]; then
        say "process $postmaster stays as a zombie, since nothing here reaps it: its socket's lock goes by hand"
        run rm -f "$SOCKETS/.s.PGSQL.${PORT[$name]}" "$SOCKETS/.s.PGSQL.${PORT[$name]}.lock"
    fi
    run rm -rf "$SCRATCH/$name"
}

# PostgreSQL's processes have the data directory as their working directory.
nobody_works_in() {
    [[ -z $(readlink /proc/[0-9]*/cwd 2>/dev/null | grep -xF "$1" || true) ]]
}

# sql NAME STATEMENT...: shows each statement with its result.
sql() {
    local name=$1 statement
    shift
    for statement in "$@"; do
        printf '%s%s=# %s%s\n' "$BOLD" "$name" "$statement" "$PLAIN"
        psql -X -p "${PORT[$name]}" -v ON_ERROR_STOP=1 -P footer=off -c "$statement"
    done
}

# value NAME QUERY: the bare result, not shown.
value() {
    psql -X -A -t -q -p "${PORT[$1]}" -v ON_ERROR_STOP=1 -c "$2"
}

# holds NAME CONDITION: true where the SQL condition is.
holds() {
    [[ $(value "$1" "SELECT $2") == t ]]
}

# timeline_of NAME: the timeline that the server writes, as a number.
timeline_of() {
    printf '%d\n' "0x$(value "$1" "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")"
}

# wait_until_promoted NAME: recovery has ended, and the server takes writes.
# pg_ctl comes back earlier: as soon as the server answers read-only queries.
wait_until_promoted() {
    local deadline=$((SECONDS + 60))
    until holds "$1" "NOT pg_is_in_recovery()" 2>/dev/null; do
        if ! pg_ctl -D "$SCRATCH/$1" status >/dev/null; then
            give_up "server \"$1\" went down during recovery"
        elif ((SECONDS >= deadline)); then
            give_up "server \"$1\" is still in recovery after 60 s"
        fi
        sleep 0.1
    done
}

# fingerprint NAME TABLE: rows and a checksum over their contents. Two tables
# with the same fingerprint hold the same rows.
fingerprint() {
    value "$1" "SELECT count(*) || ' rows, md5 ' ||
                       md5(coalesce(string_agg(t::text, E'\n' ORDER BY id), ''))
                FROM $2 AS t"
}

# switch_and_wait NAME: closes the current segment and waits until it is in
# the repository. Its name is left in $SEGMENT.
switch_and_wait() {
    local name=$1
    printf '%s%s=# SELECT pg_walfile_name(pg_switch_wal());%s\n' "$BOLD" "$name" "$PLAIN"
    SEGMENT=$(value "$name" "SELECT pg_walfile_name(pg_switch_wal())")
    printf '%s\n' "$SEGMENT"
    wait_until_archived "$name" "$SEGMENT"
}

# PostgreSQL makes SEGMENT.ready before pg_switch_wal() returns, and turns it
# into SEGMENT.done when archive_command has returned 0.
wait_until_archived() {
    wait_until 60 "\"$2\" is archived" test ! -e "$SCRATCH/$1/pg_wal/archive_status/$2.ready"
}

# create_empleados NAME: the table of the exercises, 10 000 generated rows.
create_empleados() {
    printf '%s$ psql -f empleados.sql%s\n' "$BOLD" "$PLAIN"
    sed 's/^/   /' "$LABS/empleados.sql"
    psql -X -q -p "${PORT[$1]}" -v ON_ERROR_STOP=1 -f "$LABS/empleados.sql"
}

# primary_that_archives: what lab 1 explains, in one go.
primary_that_archives() {
    new_cluster primary
    configure primary <<SETTINGS
wal_level = replica
archive_mode = on
archive_command = '$BIN/pitr-archive --repo $PITR_REPO %p %f'
SETTINGS
    run pitr-archive init
    start_server primary
}

# how_many_backups: whole ones; a backup without backup.json does not exist.
how_many_backups() {
    find "$PITR_REPO" -name backup.json | wc -l
}

# newest_backup: the label of the backup that was finished last.
newest_backup() {
    local finished
    finished=$(printf '%s\n' "$PITR_REPO"/*/backups/*/backup.json | sort | tail -n 1)
    basename "$(dirname "$finished")"
}
