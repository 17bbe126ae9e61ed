//! The order of plugins, their start, and what came of it.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base_errors::{Error, Result};

use crate::registration::{InitContext, PluginError, Registration};
use crate::types::ALL;

/// What became of a plugin.
#[derive(Debug)]
pub enum Outcome {
    /// It serves.
    Loaded,
    /// It cannot work here, with the reason.
    Skipped(String),
    /// It failed.
    Failed(Error),
}

/// A plugin after the start, for introspection.
#[derive(Debug)]
pub struct Loaded {
    /// Its type.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// The types that it requires.
    pub requires: Vec<&'static str>,
    /// Platforms that it serves.
    pub platforms: Vec<String>,
    /// Its exported facts.
    pub exports: BTreeMap<String, String>,
    /// Its capabilities.
    pub capabilities: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// All plugins after the start.
#[derive(Default)]
pub struct Plugins {
    list: Vec<Loaded>,
    instances: BTreeMap<(&'static str, String), Arc<dyn Any + Send + Sync>>,
}

impl Plugins {
    /// The plugins in the order of their start.
    #[must_use]
    pub fn list(&self) -> &[Loaded] {
        &self.list
    }

    /// The instance `kind`.`id`.
    ///
    /// # Errors
    /// NotFound if it is not loaded, FailedPrecondition if it is of another Rust type.
    pub fn get<T: Any + Send + Sync>(&self, kind: &str, id: &str) -> Result<Arc<T>> {
        let found = self.instances.iter().find(|((k, i), _)| *k == kind && i == id);
        match found {
            Some((_, instance)) => downcast(kind, id, instance),
            None => Err(Error::not_found(format!("plugin {kind}.{id}"))),
        }
    }

    /// All instances of `kind`, by id.
    ///
    /// # Errors
    /// FailedPrecondition if one is of another Rust type.
    pub fn all<T: Any + Send + Sync>(&self, kind: &str) -> Result<BTreeMap<String, Arc<T>>> {
        self.instances
            .iter()
            .filter(|((k, _), _)| *k == kind)
            .map(|((_, id), instance)| Ok((id.clone(), downcast(kind, id, instance)?)))
            .collect()
    }
}

fn downcast<T: Any + Send + Sync>(
    kind: &str,
    id: &str,
    instance: &Arc<dyn Any + Send + Sync>,
) -> Result<Arc<T>> {
    Arc::clone(instance).downcast().map_err(|_| {
        Error::failed_precondition(format!(
            "plugin {kind}.{id} is not a {}",
            std::any::type_name::<T>()
        ))
    })
}

/// The registrations of a daemon.
#[derive(Default)]
pub struct Graph {
    registrations: Vec<Registration>,
}

impl Graph {
    /// Adds a plugin. Order matters only among plugins that do not depend on each other.
    pub fn register(&mut self, registration: Registration) {
        self.registrations.push(registration);
    }

    /// The registrations, each after all plugins of the types that it requires.
    ///
    /// Plugins in `disabled` (by `type.id`) are left out. A plugin that requires [`ALL`] comes
    /// after everything else. Cycles cannot hang: a plugin in one comes where it is first met.
    fn order(self, disabled: &[String]) -> Vec<Registration> {
        let mut left: Vec<Option<Registration>> = self
            .registrations
            .into_iter()
            .filter(|registration| !disabled.contains(&registration.uri()))
            .map(Some)
            .collect();
        let mut ordered = Vec::with_capacity(left.len());
        for last in [false, true] {
            for index in 0..left.len() {
                let due = left[index]
                    .as_ref()
                    .is_some_and(|registration| registration.requires.contains(&ALL) == last);
                if due {
                    visit(index, &mut left, &mut ordered);
                }
            }
        }
        ordered
    }

    /// Initialises all plugins, except those in `disabled`, below the folders `root` and `state`.
    ///
    #[must_use]
    pub fn start(self, disabled: &[String], root: &Path, state: &Path) -> Plugins {
        let mut plugins = Plugins::default();
        for registration in self.order(disabled) {
            let uri = registration.uri();
            tracing::info!(id = uri, kind = registration.kind, "loading plugin");
            let mut context = InitContext {
                root: root.join(&uri),
                state: state.join(&uri),
                uri,
                platforms: Vec::new(),
                exports: BTreeMap::new(),
                capabilities: Vec::new(),
                requires: registration.requires.clone(),
                plugins: &plugins,
            };
            let outcome = (registration.init)(&mut context);
            let InitContext { uri, platforms, exports, capabilities, .. } = context;
            let outcome = match outcome {
                Ok(instance) => {
                    plugins
                        .instances
                        .insert((registration.kind, registration.id.clone()), instance);
                    Outcome::Loaded
                }
                Err(PluginError::Skip(reason)) => {
                    tracing::info!(id = uri, reason, "skip loading plugin");
                    Outcome::Skipped(reason)
                }
                Err(PluginError::Failed(error)) => {
                    tracing::warn!(id = uri, %error, "failed to load plugin");
                    Outcome::Failed(error)
                }
            };
            plugins.list.push(Loaded {
                kind: registration.kind,
                id: registration.id,
                requires: registration.requires,
                platforms,
                exports,
                capabilities,
                outcome,
            });
        }
        plugins
    }
}

/// Moves the registration at `index` to `ordered`, after all that it requires.
fn visit(index: usize, left: &mut Vec<Option<Registration>>, ordered: &mut Vec<Registration>) {
    let Some(registration) = left[index].take() else { return };
    for required in registration.requires.iter().filter(|required| **required != ALL) {
        for other in 0..left.len() {
            if left[other].as_ref().is_some_and(|candidate| candidate.kind == *required) {
                visit(other, left, ordered);
            }
        }
    }
    ordered.push(registration);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(kind: &'static str, id: &str, requires: &[&'static str]) -> Registration {
        let name = format!("{kind}.{id}");
        Registration::new(kind, id, requires, move |_| Ok(name))
    }

    fn start(graph: Graph, disabled: &[String]) -> Plugins {
        graph.start(disabled, Path::new("/root"), Path::new("/state"))
    }

    fn ids(plugins: &Plugins) -> Vec<String> {
        plugins.list().iter().map(|plugin| format!("{}.{}", plugin.kind, plugin.id)).collect()
    }

    #[test]
    fn requirements_come_first_and_all_comes_last() {
        let mut graph = Graph::default();
        graph.register(plugin("last", "x", &[ALL]));
        graph.register(plugin("c", "x", &["b", "a"]));
        graph.register(plugin("a", "x", &[]));
        graph.register(plugin("b", "x", &["a"]));
        assert_eq!(ids(&start(graph, &[])), ["a.x", "b.x", "c.x", "last.x"]);
    }

    #[test]
    fn a_cycle_does_not_hang() {
        let mut graph = Graph::default();
        graph.register(plugin("a", "x", &["b"]));
        graph.register(plugin("b", "x", &["a"]));
        assert_eq!(ids(&start(graph, &[])).len(), 2);
    }

    #[test]
    fn failed_skipped_and_disabled_plugins_are_told_apart() {
        let mut graph = Graph::default();
        graph.register(Registration::new("a", "fails", &[], |_| {
            Err::<(), _>(PluginError::Failed(Error::unavailable("no disk")))
        }));
        graph.register(Registration::new("a", "skips", &[], |_| {
            Err::<(), _>(PluginError::Skip("no kernel support".to_owned()))
        }));
        graph.register(plugin("a", "off", &[]));
        graph.register(Registration::new("b", "needs", &["a"], |context| {
            context.single::<String>("a").map_err(PluginError::Failed).map(|_| ())
        }));
        let plugins = start(graph, &["a.off".to_owned()]);
        assert_eq!(ids(&plugins), ["a.fails", "a.skips", "b.needs"]);
        assert!(matches!(plugins.list()[0].outcome, Outcome::Failed(_)));
        assert!(matches!(plugins.list()[1].outcome, Outcome::Skipped(_)));
        assert!(matches!(plugins.list()[2].outcome, Outcome::Failed(_)));
        assert!(plugins.get::<String>("a", "fails").is_err_and(|error| error.is_not_found()));
    }

    #[test]
    fn undeclared_types_are_out_of_reach() {
        let mut graph = Graph::default();
        graph.register(plugin("a", "x", &[]));
        graph.register(Registration::new("b", "x", &[], |context| {
            Ok(context.get::<String>("a", "x")?.to_string())
        }));
        assert!(matches!(start(graph, &[]).list()[1].outcome, Outcome::Failed(_)));
    }
}
