//! Configuration files as users write them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let folder = std::env::temp_dir().join(format!("config-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Files(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_missing_file_is_fine_unless_it_was_asked_for() {
    let files = Files::new("missing");
    let path = files.0.join("none.toml");
    let loaded = Config::load(&path, false, &Overrides::default()).unwrap();
    assert_eq!(loaded.config.grpc.address, "/run/containerd/containerd.sock");
    assert!(Config::load(&path, true, &Overrides::default()).is_err());
}

#[test]
fn unknown_keys_are_named_with_file_and_line() {
    let files = Files::new("unknown");
    let path = files.write("c.toml", "version = 2\n\n[grpc]\n  adress = \"/x\"\n");
    let loaded = Config::load(&path, true, &Overrides::default()).unwrap();
    assert_eq!(
        loaded.warnings,
        [format!("{}:4: ignoring unknown key \"grpc.adress\"", path.display())]
    );
}

#[test]
fn unknown_keys_of_plugins_are_named_with_file_and_line() {
    #[derive(Default, Deserialize, Serialize)]
    #[serde(default)]
    struct Overlay {
        root_path: String,
    }
    let files = Files::new("plugin");
    let text = "version = 2\n[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\nroot_path = \"/x\"\nrootpath = 1\n[plugins.\"no.such\"]\n";
    let path = files.write("c.toml", text);
    let loaded = Config::load(&path, true, &Overrides::default()).unwrap();
    let tables = PluginTables::new(&loaded.config, loaded.provenance);
    let uri = "io.containerd.snapshotter.v1.overlayfs";
    assert_eq!(tables.take::<Overlay>(uri).unwrap().root_path, "/x");
    let warnings = tables.warnings(&[uri.to_owned()].into());
    assert!(warnings[0].contains("c.toml:4: ignoring unknown key \"rootpath\""), "{warnings:?}");
    assert!(warnings[1].contains("c.toml:5: ignoring configuration of unknown plugin"));
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_with_its_place() {
    let files = Files::new("type");
    let path = files.write("c.toml", "version = 2\n[grpc]\naddress = 5\n");
    let error = format!("{:#}", Config::load(&path, true, &Overrides::default()).err().unwrap());
    assert!(error.contains("c.toml") && error.contains("address"), "{error}");
}

#[test]
fn imports_merge_by_one_rule() {
    let files = Files::new("imports");
    files.write("a.toml", "disabled_plugins = [\"y\", \"x\"]\n[debug]\nlevel = \"debug\"\n");
    let path = files.write(
        "c.toml",
        "version = 2\nimports = [\"*.toml\"]\ndisabled_plugins = [\"x\"]\n[debug]\nlevel = \"warn\"\nformat = \"json\"\n",
    );
    let config = Config::load(&path, true, &Overrides::default()).unwrap().config;
    assert_eq!(config.disabled_plugins, ["x", "y"]);
    assert_eq!((config.debug.level.as_str(), config.debug.format.as_str()), ("debug", "json"));
}

#[test]
fn version_one_knows_plugins_by_bare_ids() {
    let files = Files::new("one");
    let path =
        files.write("c.toml", "disabled_plugins = [\"cri\"]\n[plugins.bolt]\nno_sync = true\n");
    let config = Config::load(&path, true, &Overrides::default()).unwrap().config;
    assert_eq!(config.disabled_plugins, ["io.containerd.grpc.v1.cri"]);
    assert!(config.plugins.contains_key("io.containerd.metadata.v1.bolt"));
}

#[test]
fn version_four_keeps_listeners_in_plugins() {
    let files = Files::new("four");
    let path = files.write(
        "c.toml",
        "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/x.sock\"\n",
    );
    let config = Config::load(&path, true, &Overrides::default()).unwrap().config;
    assert_eq!(config.grpc.address, "/x.sock");
    assert_eq!(config.ttrpc_address(), "/x.sock.ttrpc");
}

#[test]
fn a_version_from_the_future_is_refused() {
    let files = Files::new("future");
    let path = files.write("c.toml", "version = 9\n");
    assert!(Config::load(&path, true, &Overrides::default()).is_err());
}

#[test]
fn flags_win() {
    let files = Files::new("flags");
    let path = files.write("c.toml", "version = 2\nroot = \"/a\"\nstate = \"/b\"\n");
    let overrides = Overrides { root: Some("/c".into()), ..Overrides::default() };
    let config = Config::load(&path, true, &overrides).unwrap().config;
    assert_eq!(config.root, PathBuf::from("/c"));
    let overrides = Overrides { root: Some("/b".into()), ..Overrides::default() };
    assert!(Config::load(&path, true, &overrides).is_err(), "root and state are the same");
}

#[test]
fn the_dump_can_be_read_again() {
    let text = Config::default().to_toml().unwrap();
    let again: Config = toml::from_str(&text).unwrap();
    assert_eq!(again.to_toml().unwrap(), text);
}

#[test]
fn go_durations() {
    assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
    assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(parse_duration("0"), Some(Duration::ZERO));
    assert_eq!(parse_duration("1.5h"), Some(Duration::from_secs(5400)));
    for bad in ["", "5", "x", "1y", "-1s"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}
