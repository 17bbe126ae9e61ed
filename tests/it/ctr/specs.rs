//! The specs that our `ctr` writes are those of containerd's.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, World, words};
use serde_json::Value;

/// Flags that change the spec.
const FLAGS: [&str; 16] = [
    "",
    "--tty",
    "--net-host",
    "--read-only --cwd /tmp --hostname host --env A=b --env FROM_IMAGE=",
    "--annotation a=b --label c=d --rootfs-propagation rshared --allow-new-privs",
    "--memory-limit 20000000 --cpu-quota 20000 --cpu-period 50000",
    "--mount type=bind,src=/tmp,dst=/host,options=rbind:ro",
    "--with-ns network:/proc/1/ns/net --with-ns pid:/proc/1/ns/pid",
    "--device /dev/null",
    "--user 1:2",
    "--cap-add CAP_SYS_ADMIN --cap-drop CAP_CHOWN",
    "--privileged",
    "--privileged --device /dev/null",
    "--seccomp",
    "--seccomp --privileged",
    "--seccomp --cap-add CAP_BPF --cap-add CAP_PERFMON --cap-add CAP_SYS_PTRACE --cap-add CAP_SYSLOG --cap-add CAP_SYS_TIME --cap-drop CAP_SYS_CHROOT",
];

/// The spec that `ctr` of `maker` writes.
fn spec(world: &World, maker: Maker, line: &str) -> Result<Value> {
    let ctr = |line: &str| {
        let mut command = world.command(&maker.ctr()?);
        command.arg("--address").arg(world.socket());
        command.args(["--namespace", world.namespace()]).args(words::split(line));
        e2e::running::run(command, None, &world.path("files"))?.ok()
    };
    ctr(&format!("containers create {line}"))?;
    let mut spec: Value = serde_json::from_str(&ctr("containers info --spec one")?)?;
    ctr("containers rm one")?;
    unordered(&mut spec);
    Ok(spec)
}

/// Puts into one order what has none: devices, and the rules of calls, one for each name.
fn unordered(spec: &mut Value) {
    let order = |list: &mut Vec<Value>, keys: &[&str]| {
        let key = |value: &Value| {
            keys.iter().map(|key| value.pointer(key).map(Value::to_string)).collect::<Vec<_>>()
        };
        list.sort_by_key(key);
        list.dedup();
    };
    for path in ["/linux/devices", "/linux/resources/devices"] {
        if let Some(list) = spec.pointer_mut(path).and_then(Value::as_array_mut) {
            order(list, &["/path", "/type", "/major", "/minor", "/access"]);
        }
    }
    let Some(rules) = spec.pointer_mut("/linux/seccomp/syscalls") else { return };
    let mut single = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        for name in rule["names"].as_array().into_iter().flatten() {
            let mut rule = rule.clone();
            rule["names"] = name.clone();
            single.push(rule);
        }
    }
    order(&mut single, &["/names", "/action", "/args/0/index", "/args/0/value", "/args/0/op"]);
    *rules = Value::Array(single);
}

/// Where two documents differ.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(one), Value::Object(other)) => {
            for key in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
                differences(&format!("{path}/{key}"), &ours[key], &theirs[key], found);
            }
        }
        _ if ours != theirs => found.push(format!("{path}: {ours}, containerd's {theirs}")),
        _ => {}
    }
}

#[test]
fn are_those_of_containerd() {
    check(Options::new(Maker::Ours), |world| {
        let root = world.path("rootfs");
        std::fs::create_dir_all(root.join("etc"))?;
        let folder = format!("--rootfs {} one /bin/true", root.display());
        let image = format!("{IMAGE} one /bin/true");
        let lines = FLAGS.iter().map(|flags| format!("{flags} {image}")).chain([folder]);
        for line in lines {
            let (ours, theirs) =
                (spec(world, Maker::Ours, &line)?, spec(world, Maker::Forky, &line)?);
            let mut found = Vec::new();
            differences("", &ours, &theirs, &mut found);
            ensure!(found.is_empty(), "{line}:\n{}", found.join("\n"));
        }
        Ok(())
    });
}
