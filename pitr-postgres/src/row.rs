//! Rows of a result.

use std::sync::Arc;

use bytes::Bytes;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{DataRowBody, RowDescriptionBody};

/// One row of a result, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Option<String>>,
}

impl Row {
    /// Value of a column by its position from 0; `None` for NULL and beyond the last.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&str> {
        self.values.get(position)?.as_deref()
    }

    /// Value of a column by its name; `None` for NULL, and if there is no such column.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&str> {
        self.get(self.columns.iter().position(|column| column == name)?)
    }

    /// Names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// A row as it came, for values that need not be UTF-8.
pub(crate) struct RawRow(pub(crate) Vec<Option<Bytes>>);

impl RawRow {
    pub(crate) fn text(&self, position: usize) -> Option<&str> {
        std::str::from_utf8(self.0.get(position)?.as_ref()?).ok()
    }

    pub(crate) fn bytes(&self, position: usize) -> Option<&Bytes> {
        self.0.get(position)?.as_ref()
    }
}

pub(crate) fn column_names(body: &RowDescriptionBody) -> std::io::Result<Arc<[String]>> {
    let mut names = Vec::new();
    let mut fields = body.fields();
    while let Some(field) = fields.next()? {
        names.push(field.name().to_owned());
    }
    Ok(names.into())
}

pub(crate) fn read_row(body: &DataRowBody) -> std::io::Result<RawRow> {
    let mut values = Vec::new();
    let mut ranges = body.ranges();
    while let Some(range) = ranges.next()? {
        values.push(range.map(|range| body.buffer_bytes().slice(range)));
    }
    Ok(RawRow(values))
}
