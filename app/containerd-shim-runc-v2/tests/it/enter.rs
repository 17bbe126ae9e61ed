//! Execs that the shim carries out by itself: they are what runc would have made, and whatever is
//! out of the ordinary is made by runc.

use std::fs;

use api_shim::task::*;
use api_shim::typeurl;
use serde_json::{Value, json};

use crate::world::{Shim, World, call, read_all};

/// Tells all that a process can find out about itself, without what differs from one to the next.
/// The script has no child of its own where that would show.
const PROBE: &str = r#"
while read -r name rest; do case "$name" in
    Uid:|Gid:|Groups:|Umask:|NoNewPrivs:|Seccomp:|Seccomp_filters:|Cap*|Sig[BIC]*|ShdPnd:|TracerPid:|PPid:|\
    Cpus_allowed:|Mems_allowed:|Threads:|THP_enabled:|CoreDumping:|Speculation*) echo "$name $rest";;
esac; done </proc/$$/status
cat /proc/$$/limits
while IFS=: read -r number controllers group; do echo "group $controllers ${group%-*}"; done </proc/$$/cgroup
for ns in cgroup ipc mnt net pid time user uts; do
    mine=$(readlink /proc/$$/ns/$ns); inits=$(readlink /proc/1/ns/$ns)
    [ "$mine" = "$inits" ] && echo "$ns is shared" || echo "$ns differs"
done
for fd in /proc/$$/fd/*; do case "${fd##*/}" in [0-9]) echo "fd ${fd##*/}";; *) echo "more: $(readlink $fd)";; esac; done
for file in oom_score_adj coredump_filter personality timerslack_ns loginuid sessionid attr/current; do
    echo "$file: $(cat /proc/$$/$file 2>&1)"
done
read -r pid comm state parent group session terminal foreground flags rest </proc/$$/stat
[ "$session" = "$pid" ] && [ "$group" = "$pid" ] && echo "leads a session"
echo "terminal $terminal parent $parent command $(tr '\0' ' ' </proc/$$/cmdline | head -n 1)"
# Root sees everybody's keys; others see what they hold.
[ "$(id -u)" = 0 ] || while read -r a b c d e f g h i; do echo "key $h ${i%-*}"; done </proc/keys
echo "folder $(pwd)"
env
"#;

/// Containers whose execs may be told apart: a name, and what is special about the container and
/// about the process.
fn kinds() -> Vec<(&'static str, Value, Value)> {
    let all = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN"]);
    let some = json!(["CAP_CHOWN", "CAP_NET_RAW"]);
    vec![
        ("plain", json!({}), json!({})),
        (
            "rich",
            json!({"process": {"oomScoreAdj": 321}, "hostname": "rich"}),
            json!({
                "user": {"uid": 1000, "gid": 1001, "additionalGids": [7, 9, 1001]},
                "capabilities": {
                    "bounding": all, "permitted": some, "effective": some, "inheritable": some,
                    "ambient": ["CAP_NET_RAW"],
                },
                "rlimits": [
                    // Some builds of runc raise a lower soft limit: Go's doing, and not asked for.
                    {"type": "RLIMIT_NOFILE", "soft": 199, "hard": 199},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX},
                    {"type": "RLIMIT_NPROC", "soft": 4000, "hard": 5000},
                ],
                "noNewPrivileges": true,
                "oomScoreAdj": 7,
                "cwd": "/tmp",
                "env": ["A=1", "PATH=/nothing:/bin", "A=2=3", "EMPTY="],
            }),
        ),
        (
            "root-with-capabilities",
            json!({}),
            json!({
                "capabilities": {"bounding": all, "permitted": all, "effective": all},
                "user": {"uid": 0, "gid": 5},
                "env": ["HOME=", "PATH=/bin"],
            }),
        ),
        (
            "what-the-container-has",
            json!({"process": {
                "capabilities": {"bounding": all, "permitted": some, "effective": some},
                "rlimits": [{"type": "RLIMIT_NPROC", "soft": 400, "hard": 500}],
                "noNewPrivileges": true,
            }}),
            json!({}),
        ),
        ("user-without-home", json!({}), json!({"user": {"uid": 4242, "gid": 4242}})),
        (
            "namespaces-of-the-machine",
            json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}),
            json!({}),
        ),
        (
            "a-group-namespace",
            json!({"linux": {"namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "cgroup"},
            ]}}),
            json!({"noNewPrivileges": false}),
        ),
    ]
}

/// Puts the fields of `change` into `base`.
fn merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (name, value) in change {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change.clone(),
    }
}

fn exec_request(shim: &Shim, exec_id: &str, process: &Value) -> ExecProcessRequest {
    let process = process.to_string().into_bytes();
    ExecProcessRequest {
        spec: Some(typeurl::encode_json(typeurl::PROCESS, process)),
        ..shim.exec_request(exec_id, &[])
    }
}

/// What the exec writes, to both of its outputs, and its status.
async fn output(world: &World, shim: &Shim, exec_id: &str, process: &Value) -> (String, u32) {
    let (out, err) = (world.fifo(&format!("{exec_id}.out")), world.fifo(&format!("{exec_id}.err")));
    let (stdout, stderr) = (read_all(&out), read_all(&err));
    let mut request = exec_request(shim, exec_id, process);
    (request.stdout, request.stderr) = (out, err);
    let status = shim.exec_to_end(request).await;
    let text = [stdout.await.unwrap(), stderr.await.unwrap()].concat();
    (String::from_utf8(text).unwrap(), status)
}

/// A world whose containers know some users, and whose runtime is a copy of runc that can be taken
/// away.
async fn world() -> World {
    let world = World::new().await;
    let image = world.path("image");
    for applet in ["readlink", "tr", "env", "pwd", "ls", "id", "dd"] {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet)).unwrap();
    }
    fs::create_dir(image.join("etc")).unwrap();
    let users = "root:x:0:0::/root:/bin/sh\nsomebody:x:1000:1000::/home/somebody:/bin/sh\n";
    fs::write(image.join("etc/passwd"), users).unwrap();
    fs::create_dir(world.path("own")).unwrap();
    let runc = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("runc"))
        .find(|path| path.exists())
        .expect("needs Debian's runc");
    fs::copy(runc, world.path("own/runc")).unwrap();
    world
}

/// A container of that kind, which runs.
async fn container(world: &World, id: &str, change: &Value) -> Shim {
    let bundle = world.bundle_with(id, &["sleep", "100000"], |spec| merge(spec, change));
    let shim = world.start(&bundle, id).await;
    let mut create = world.create(&shim);
    create.options = Some(world.options(world.path("own/runc").to_str().unwrap()));
    shim.run(create).await;
    shim
}

fn process(change: &Value) -> Value {
    let mut process = json!({
        "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", PROBE, "probe"], "env": ["PATH=/bin"],
        "cwd": "/",
    });
    merge(&mut process, change);
    process
}

/// Takes the runtime away while `work` is done.
async fn without_runc<T>(world: &World, work: impl Future<Output = T>) -> T {
    let (here, away) = (world.path("own/runc"), world.path("own/away"));
    fs::rename(&here, &away).unwrap();
    let done = work.await;
    fs::rename(&away, &here).unwrap();
    done
}

#[tokio::test]
async fn an_exec_is_what_runc_would_have_made() {
    for (name, container_change, process_change) in kinds() {
        let mut world = world().await;
        let process = process(&process_change);
        let ours = container(&world, &format!("{name}-ours"), &container_change).await;
        let run = output(&world, &ours, "probe-ours", &process);
        let (found, status) = without_runc(&world, run).await;
        assert_eq!(status, 0, "{name}: {found}");

        world.environment.push(("IRONHULL_RUNTIME_EXEC", "1".to_owned()));
        let runcs = container(&world, &format!("{name}-runcs"), &container_change).await;
        let (expected, status) = output(&world, &runcs, "probe-runcs", &process).await;
        assert_eq!(status, 0, "{name}: {expected}");
        assert!(expected.lines().count() > 40, "{name}: {expected}");
        assert_eq!(found, expected, "{name}");
        for shim in [ours, runcs] {
            shim.remove().await;
            // What is left is looked for when both are gone.
            let _ = call!(shim, shutdown, ShutdownRequest { id: shim.id.clone(), now: false });
        }
    }
}

#[tokio::test]
async fn on_version_2_of_control_groups_a_process_begins_in_its_group() {
    let mut world = world().await;
    if !world.unify() {
        return;
    }
    let shim = container(&world, "one", &json!({})).await;
    let script = "while read -r line; do echo $line; done </proc/self/cgroup";
    let process = process(&json!({"args": ["sh", "-c", script]}));
    let (ours, status) = without_runc(&world, output(&world, &shim, "ours", &process)).await;
    assert_eq!(status, 0);
    let init = fs::read_to_string(format!(
        "/proc/{}/cgroup",
        call!(shim, state, shim.state_request("")).unwrap().pid
    ))
    .unwrap();
    let unified = |text: &str| text.lines().find(|line| line.starts_with("0::")).map(str::to_owned);
    assert!(unified(&ours).is_some_and(|group| group.ends_with("/one")), "{ours}");
    assert_eq!(unified(&ours), unified(&init));
    shim.remove().await;
    world.end(shim).await;
}

#[tokio::test]
async fn what_is_unusual_is_left_to_runc() {
    let world = world().await;
    let shim = container(&world, "one", &json!({})).await;
    let unusual = [
        ("umask", json!({"user": {"uid": 0, "gid": 0, "umask": 63}})),
        ("priority", json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1}})),
        ("path", json!({"env": ["PATH=bin:/bin"]})),
        ("folder", json!({"cwd": "/no/such/folder"})),
        ("missing", json!({"args": ["no-such-program"]})),
        ("format", json!({"args": ["/etc/passwd"]})),
        ("capability", json!({"capabilities": {"bounding": ["CAP_OF_TOMORROW"]}})),
    ];
    for (name, change) in unusual {
        let without = async {
            call!(shim, exec, exec_request(&shim, name, &process(&change))).unwrap();
            call!(shim, start, shim.start_request(name)).unwrap_err()
        };
        let error = without_runc(&world, without).await;
        assert!(error.message.contains("own/runc"), "{name}: {}", error.message);
        call!(shim, delete, shim.delete_request(name)).unwrap();
    }
    // And runc says what is wrong.
    for (name, words) in [
        ("no-such-program", r#"exec: "no-such-program": executable file not found in $PATH"#),
        ("/etc", "permission denied"),
    ] {
        let request = exec_request(&shim, "x", &process(&json!({"args": [name]})));
        call!(shim, exec, request).unwrap();
        let error = call!(shim, start, shim.start_request("x")).unwrap_err();
        assert!(error.message.starts_with("OCI runtime exec failed: exec failed: "), "{error:?}");
        assert!(error.message.contains(words), "{name}: {}", error.message);
        call!(shim, delete, shim.delete_request("x")).unwrap();
        assert!(!shim.bundle.join("x.pid").exists(), "nothing is left of it");
    }
    // A filter of system calls covers execs as well.
    let filter = json!({"linux": {"seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO"}],
    }}});
    let filtered = container(&world, "two", &filter).await;
    let (text, status) = output(&world, &filtered, "probe", &process(&json!({}))).await;
    assert!(status == 0 && text.contains("Seccomp: 2"), "{text}");
    for shim in [&filtered, &shim] {
        shim.remove().await;
    }
    let _ = call!(filtered, shutdown, ShutdownRequest { id: "two".to_owned(), now: false });
    world.end(shim).await;
}

/// The number of open descriptors of a process.
fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test]
async fn nothing_is_left_of_execs_and_nothing_of_the_machine_is_seen() {
    let world = world().await;
    let shim = container(&world, "one", &json!({})).await;
    let script = |text: &str| process(&json!({"args": ["/bin/sh", "-c", text]}));
    let (_, status) = output(&world, &shim, "first", &script("exit 7")).await;
    assert_eq!(status, 7);
    let before = descriptors(shim.pid);
    for number in 0..40 {
        let text = ["exit 7", "kill -9 $$", "exit 0"][number % 3];
        let (out, status) = output(&world, &shim, &format!("x{number}"), &script(text)).await;
        assert_eq!((out.as_str(), status), ("", [7, 137, 0][number % 3]));
    }
    let missing = process(&json!({"args": ["/no/such/program"]}));
    for number in 0..10 {
        let id = format!("m{number}");
        call!(shim, exec, exec_request(&shim, &id, &missing)).unwrap();
        call!(shim, start, shim.start_request(&id)).unwrap_err();
        call!(shim, delete, shim.delete_request(&id)).unwrap();
    }
    let number = || descriptors(shim.pid) <= before;
    crate::world::eventually("descriptors to be closed", number).await;

    // Every process that the container can see of an exec that begins: a loop of it looks for the
    // helper while others come, and tries to write to what it runs.
    let spy = r#"
        while [ ! -e /tmp/stop ]; do for exe in /proc/[0-9]*/exe; do
            to=$(readlink $exe) || continue
            case "$to" in /bin/busybox|"") ;; *) echo "sees $to";; esac
            ( : >>$exe ) 2>/dev/null && case "$to" in /bin/busybox) ;; *) echo "writes $to";; esac
        done; done; exit 0"#;
    let watch = async { output(&world, &shim, "spy", &script(spy)).await };
    let execs = async {
        for number in 0..30 {
            output(&world, &shim, &format!("y{number}"), &script("exit 0")).await;
        }
        fs::write(world.path("image/tmp/stop"), "").unwrap();
    };
    let ((seen, status), ()) = tokio::join!(watch, execs);
    assert_eq!((seen.as_str(), status), ("", 0));
    // A program that is the helper itself is not there to be run.
    let own = process(&json!({"args": ["/proc/self/exe"]}));
    call!(shim, exec, exec_request(&shim, "own", &own)).unwrap();
    let _ = call!(shim, start, shim.start_request("own"));
    let _ = call!(shim, wait, shim.wait_request("own"));
    call!(shim, delete, shim.delete_request("own")).unwrap();
    shim.remove().await;
    world.end(shim).await;
}
