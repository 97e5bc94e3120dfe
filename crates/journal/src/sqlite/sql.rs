//! Statements, prepared once for each connection.
//!
//! SQLite is a library, and its calls return when they are done: nothing here waits for another
//! thread. So the callers run where a thread may block.

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, Params, Row, params_from_iter};

use super::errors::SqlError;

/// How many statements a connection keeps prepared. The journal has some sixty.
pub(super) const STATEMENTS_MAX: usize = 128;

/// Executes a statement. Returns how many rows it changed, without those that triggers changed.
pub(super) fn execute(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> Result<usize, SqlError> {
    Ok(prepared(connection, sql)?.execute(values)?)
}

/// What a query finds, read from its first row. `None` if it finds nothing.
pub(super) fn optional<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Option<T>, SqlError> {
    let mut statement = prepared(connection, sql)?;
    let mut rows = statement.query(values)?;
    let found = rows.next()?.map(read).transpose()?;
    // A statement that changes rows ends with its last one.
    while rows.next()?.is_some() {}
    Ok(found)
}

/// What a query finds that always has a row.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, SqlError>,
) -> Result<T, SqlError> {
    let found = optional(connection, sql, values, read)?;
    found.ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
}

/// Whether a query finds anything.
pub(super) fn exists(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> Result<bool, SqlError> {
    let found = optional(connection, sql, values, |_| Ok(()))?;
    Ok(found.is_some())
}

/// Everything that a query finds.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Vec<T>, SqlError> {
    let mut statement = prepared(connection, sql)?;
    let found = statement.query_and_then(values, read)?;
    found.collect()
}

fn prepared<'c>(connection: &'c Connection, sql: &str) -> Result<CachedStatement<'c>, SqlError> {
    Ok(connection.prepare_cached(sql)?)
}

/// A query whose conditions depend on what is asked for: SQLite chooses an index before it knows
/// the values.
pub(super) struct Query {
    sql: String,
    values: Vec<Value>,
}

impl Query {
    /// A query that ends with this value.
    pub(super) fn new(sql: &str, value: impl Into<Value>) -> Self {
        let query = Self {
            sql: String::new(),
            values: Vec::new(),
        };
        query.and(sql, value)
    }

    /// The query with this text behind it, and then this value.
    pub(super) fn and(mut self, sql: &str, value: impl Into<Value>) -> Self {
        self.sql.push_str(sql);
        self.sql.push('?');
        self.values.push(value.into());
        self
    }

    /// Everything that it finds.
    pub(super) fn all<T>(
        self,
        connection: &Connection,
        read: impl FnMut(&Row<'_>) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, SqlError> {
        all(connection, &self.sql, params_from_iter(self.values), read)
    }

    /// The text, for a look at its plan.
    #[cfg(test)]
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }
}
