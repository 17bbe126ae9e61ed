//! Configuration files: reading, imports, merging, and the line of each key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::de::{DeTable, DeValue};

/// The most files that one configuration may be made of.
const MAX_FILES: usize = 256;

/// Which file and line a key came from.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    root: String,
    lines: BTreeMap<Vec<String>, (PathBuf, usize)>,
}

impl Provenance {
    /// The first file.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// `file:line` of the key whose dotted path is `path`, or the first file.
    #[must_use]
    pub fn place_of(&self, path: &str) -> String {
        // A dotted path can be cut in more than one way, so it is compared as it would be shown.
        self.lines.iter().find(|(key, _)| key.join(".") == path).map_or_else(
            || self.root.clone(),
            |(_, (file, line))| format!("{}:{line}", file.display()),
        )
    }
}

/// All files as one table.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) table: toml::Table,
    pub(super) provenance: Provenance,
    pub(super) warnings: Vec<String>,
}

/// Reads `path` and what it imports; without an `imports` key, the drop-in folder.
pub(super) fn read(path: &Path, must_exist: bool) -> Result<Source> {
    let mut source = Source::default();
    source.provenance.root = path.display().to_string();
    let mut seen = BTreeSet::new();
    let mut queue = vec![path.to_owned()];
    let mut first = true;
    while let Some(file) = (!queue.is_empty()).then(|| queue.remove(0)) {
        if !seen.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
            continue;
        }
        if seen.len() > MAX_FILES {
            bail!("{}: more than {MAX_FILES} configuration files are imported", path.display());
        }
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if first && !must_exist && error.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let table: toml::Table = toml::from_str(&text)
            .with_context(|| format!("failed to load TOML: {}", file.display()))?;
        remember_lines(&file, &text, &mut source.provenance.lines);
        queue.extend(imports(&file, &table, first, &mut source.warnings));
        let (wanted, version) = (version_of(&source.table), version_of(&table));
        if !first && version > wanted {
            bail!(
                "{}: version {version} is higher than {wanted}, the version of {}",
                file.display(),
                path.display()
            );
        }
        merge(&mut source.table, table);
        first = false;
    }
    Ok(source)
}

fn version_of(table: &toml::Table) -> i64 {
    table.get("version").and_then(toml::Value::as_integer).unwrap_or(1)
}

/// The files that `table`, which stands in `file`, imports.
fn imports(
    file: &Path,
    table: &toml::Table,
    first: bool,
    warnings: &mut Vec<String>,
) -> Vec<PathBuf> {
    let default = || vec![toml::Value::from("/etc/containerd/conf.d/*.toml")];
    let patterns = match table.get("imports").and_then(toml::Value::as_array) {
        Some(patterns) => patterns.clone(),
        None if first => default(),
        None => Vec::new(),
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut found = Vec::new();
    for pattern in patterns.iter().filter_map(toml::Value::as_str) {
        let pattern = folder.join(pattern);
        let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.contains('*') {
            found.push(pattern);
            continue;
        }
        if pattern.parent().is_some_and(|parent| parent.to_string_lossy().contains('*')) {
            warnings.push(format!(
                "{}: ignoring import {}: only file names may have a *",
                file.display(),
                pattern.display()
            ));
            continue;
        }
        let entries = pattern.parent().and_then(|parent| fs::read_dir(parent).ok());
        let mut matching: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| matches(&name, &entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect();
        matching.sort();
        found.extend(matching);
    }
    found
}

/// File name patterns with `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// One merge rule: tables key by key, lists appended without doubles, other values replaced.
pub(super) fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (Some(toml::Value::Array(into)), toml::Value::Array(from)) => {
                for value in from {
                    if !into.contains(&value) {
                        into.push(value);
                    }
                }
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn remember_lines(file: &Path, text: &str, lines: &mut BTreeMap<Vec<String>, (PathBuf, usize)>) {
    let Ok(table) = DeTable::parse(text) else { return };
    let line_of =
        |at: usize| text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let mut stack = vec![(Vec::new(), table.get_ref().clone())];
    while let Some((path, table)) = stack.pop() {
        for (key, value) in table {
            let mut path: Vec<String> = path.clone();
            path.push(key.get_ref().to_string());
            lines.insert(path.clone(), (file.to_owned(), line_of(key.span().start)));
            if let DeValue::Table(table) = value.into_inner() {
                stack.push((path, table));
            }
        }
    }
}
