//! Sorts more records than fit in memory: sorted runs in temporary files, which are merged.
//!
//! A run is written as JSON Lines, because the records have only text and numbers, and an operator
//! can read what a run left behind.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many records are sorted in memory at once. A record has some 500 bytes, so this takes about
/// 30 MB. A million records are 16 runs, which one merge reads side by side.
const RUN: usize = 65_536;

/// Collects records and returns them in the order of their keys. Records with equal keys keep the
/// order in which they were added.
pub struct Sorter<T> {
    key: fn(&T) -> &str,
    run: Vec<T>,
    run_max: usize,
    spilled: Vec<File>,
}

impl<T: Serialize + DeserializeOwned> Sorter<T> {
    /// An empty sorter by this key.
    pub fn new(key: fn(&T) -> &str) -> Self {
        Self::with_runs_of(RUN, key)
    }

    /// As [`new`](Self::new), with this many records in memory.
    pub fn with_runs_of(run_max: usize, key: fn(&T) -> &str) -> Self {
        Self {
            key,
            run: Vec::new(),
            run_max: run_max.max(1),
            spilled: Vec::new(),
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When a temporary file cannot be written.
    pub fn push(&mut self, record: T) -> io::Result<()> {
        self.run.push(record);
        match self.run.len() < self.run_max {
            true => Ok(()),
            false => self.spill(),
        }
    }

    /// Writes the records in memory to a file of their own.
    fn spill(&mut self) -> io::Result<()> {
        self.sort_run();
        let mut file = BufWriter::new(tempfile::tempfile()?);
        for record in self.run.drain(..) {
            serde_json::to_writer(&mut file, &record)?;
            file.write_all(b"\n")?;
        }
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.spilled.push(file);
        Ok(())
    }

    fn sort_run(&mut self) {
        let key = self.key;
        self.run.sort_by(|one, other| key(one).cmp(key(other)));
    }

    /// All records, sorted. May be called again, after the last one was read.
    ///
    /// # Errors
    /// When a temporary file cannot be read.
    pub fn sorted(&mut self) -> io::Result<Sorted<T>> {
        // One run that fits in memory is written as well, so that it can be read twice.
        if !self.run.is_empty() {
            self.spill()?;
        }
        let mut runs = Vec::with_capacity(self.spilled.len());
        for file in &self.spilled {
            let mut file = file.try_clone()?;
            file.rewind()?;
            runs.push(Run::new(file));
        }
        let mut sorted = Sorted {
            key: self.key,
            heads: BinaryHeap::with_capacity(runs.len()),
            runs,
        };
        for run in 0..sorted.runs.len() {
            sorted.advance(run)?;
        }
        Ok(sorted)
    }
}

/// A sorted run in a file.
struct Run {
    file: BufReader<File>,
    line: String,
}

impl Run {
    fn new(file: File) -> Self {
        Self {
            file: BufReader::new(file),
            line: String::new(),
        }
    }

    /// The next record; `None` behind the last one.
    fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        self.line.clear();
        match self.file.read_line(&mut self.line)? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&self.line)?)),
        }
    }
}

/// The first record of a run that was not returned yet.
struct Head<T> {
    key: String,
    run: usize,
    record: T,
}

impl<T> Ord for Head<T> {
    /// The smallest key is the greatest, because the heap returns the greatest first. Of equal ones
    /// the earlier run comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        (&other.key, other.run).cmp(&(&self.key, self.run))
    }
}

impl<T> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Head<T> {}

/// Records in the order of their keys.
pub struct Sorted<T> {
    key: fn(&T) -> &str,
    heads: BinaryHeap<Head<T>>,
    runs: Vec<Run>,
}

impl<T: DeserializeOwned> Sorted<T> {
    fn advance(&mut self, run: usize) -> io::Result<()> {
        if let Some(record) = self.runs[run].next()? {
            let key = (self.key)(&record).to_owned();
            self.heads.push(Head { key, run, record });
        }
        Ok(())
    }
}

impl<T: DeserializeOwned> Iterator for Sorted<T> {
    type Item = io::Result<T>;

    fn next(&mut self) -> Option<io::Result<T>> {
        let Head { run, record, .. } = self.heads.pop()?;
        Some(self.advance(run).map(|()| record))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Record = (String, u32);

    fn key(record: &Record) -> &str {
        &record.0
    }

    proptest! {
        #[test]
        fn records_come_in_order_whatever_fits_in_memory(
            keys in proptest::collection::vec("[a-c]{0,2}", 0..40), run in 1_usize..50,
        ) {
            let mut sorter = Sorter::with_runs_of(run, key);
            let mut expected = Vec::new();
            for (at, name) in keys.into_iter().enumerate() {
                let record = (name, at as u32);
                expected.push(record.clone());
                sorter.push(record).unwrap();
            }
            expected.sort();
            for _ in 0..2 {
                let sorted: Vec<Record> = sorter.sorted().unwrap().map(Result::unwrap).collect();
                prop_assert_eq!(&sorted, &expected);
            }
        }
    }
}
