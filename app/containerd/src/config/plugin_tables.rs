//! The tables of plugins: each plugin takes its own, once, as its own type.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use base_errors::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Config, Provenance};

/// The plugins' tables, and the typed configuration that came of each.
pub struct PluginTables {
    tables: BTreeMap<String, toml::Table>,
    provenance: Provenance,
    used: RefCell<BTreeMap<String, toml::Table>>,
    warnings: RefCell<Vec<String>>,
}

impl PluginTables {
    /// The tables of `config`.
    #[must_use]
    pub fn new(config: &Config, provenance: Provenance) -> Self {
        PluginTables {
            tables: config.plugins.clone(),
            provenance,
            used: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The configuration of the plugin `uri`, with defaults for what is not said.
    ///
    /// # Errors
    /// InvalidArgument with the key, if a value has the wrong type.
    pub fn take<T>(&self, uri: &str) -> Result<T, Error>
    where
        T: DeserializeOwned + Serialize + Default,
    {
        let table = self.tables.get(uri).cloned().unwrap_or_default();
        let config: T = serde_ignored::deserialize(toml::Value::Table(table), |path| {
            let place = self.provenance.place_of(&format!("plugins.{uri}.{path}"));
            let text =
                format!("{place}: ignoring unknown key {:?} of plugin {uri}", path.to_string());
            self.warnings.borrow_mut().push(text);
        })
        .map_err(|error| {
            let place = self.provenance.place_of(&format!("plugins.{uri}"));
            Error::invalid_argument(format!("{place}: configuration of plugin {uri}: {error}"))
        })?;
        let shown = toml::Table::try_from(&config).unwrap_or_default();
        self.used.borrow_mut().insert(uri.to_owned(), shown);
        Ok(config)
    }

    /// The configuration of a plugin that another one takes, for a third that needs to know it.
    ///
    /// # Errors
    /// As [`PluginTables::take`].
    pub fn peek<T: DeserializeOwned>(&self, uri: &str) -> Result<T, Error> {
        let table = self.tables.get(uri).cloned().unwrap_or_default();
        toml::Value::Table(table).try_into().map_err(|error| {
            let place = self.provenance.place_of(&format!("plugins.{uri}"));
            Error::invalid_argument(format!("{place}: configuration of plugin {uri}: {error}"))
        })
    }

    /// The effective tables of all plugins that took theirs.
    #[must_use]
    pub fn effective(&self) -> BTreeMap<String, toml::Table> {
        self.used.borrow().clone()
    }

    /// What looked wrong: unknown keys, and tables for plugins that are not built in.
    #[must_use]
    pub fn warnings(&self, known: &BTreeSet<String>) -> Vec<String> {
        let mut warnings = self.warnings.borrow().clone();
        for uri in self.tables.keys().filter(|uri| !known.contains(*uri)) {
            let place = self.provenance.place_of(&format!("plugins.{uri}"));
            warnings.push(format!("{place}: ignoring configuration of unknown plugin {uri:?}"));
        }
        warnings
    }
}
