//! `ctr run`.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::world::IMAGE;
use e2e::{Table, World};

use crate::with_both_ctrs;

/// `ctr run --rm OPTIONS IMAGE one COMMAND`: its output.
fn run(world: &World, options: &str, command: &str) -> Result<String> {
    world.ctr(&format!("run --rm {options} {IMAGE} one {command}"))
}

/// A folder to be the root of a container.
fn root_folder(world: &World) -> Result<std::path::PathBuf> {
    let root = world.path("files/rootfs");
    for folder in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    Ok(root)
}

with_both_ctrs! {
    fn streams_and_status(world) {
        let output = world.try_ctr(&format!("run --rm {IMAGE} one sh -c 'echo out; echo err >&2; exit 42'"))?;
        ensure!(output.status == 42 && output.stdout == "out\n" && output.stderr.ends_with("err\n"), "{output}");
        // Input to its end.
        let input = b"line\n".repeat(50_000);
        let output = world.ctr_with_input(&format!("run --rm {IMAGE} one wc -c"), Some(&input))?;
        ensure!(output.stdout.trim() == "250000", "{output}");
        // Much output, all of it.
        let shown = run(world, "", "sh -c 'seq 1 200000'")?;
        ensure!(shown.lines().count() == 200_000 && shown.ends_with("\n200000\n"), "{} bytes", shown.len());
        // A program that is not there: a clear error, nothing left (checked at the end of each test).
        let error = world.ctr_fails(&format!("run --rm {IMAGE} one nothing"))?;
        ensure!(error.contains("executable file not found") || error.contains("no such file"), "{error}");
        ensure!(world.ctr("containers ls -q")?.is_empty(), "a container is left");
        Ok(())
    }

    fn detached(world) {
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        let table = Table::parse(&world.ctr("tasks ls")?)?;
        ensure!(table.cell("one", "STATUS")? == "RUNNING", "{table:?}");
        let pid: i32 = table.cell("one", "PID")?.parse()?;
        ensure!(e2e::process::arguments(pid) == ["sleep", "1000"], "{:?}", e2e::process::arguments(pid));
        let error = world.ctr_fails(&format!("run -d {IMAGE} one sleep 1000"))?;
        ensure!(error.contains("already exists"), "{error}");
        // The second one took nothing from the first.
        ensure!(Table::parse(&world.ctr("tasks ls")?)?.cell("one", "STATUS")? == "RUNNING");
        let file = world.path("files/pid");
        world.ctr(&format!("run -d --pid-file {} {IMAGE} two sleep 1000", file.display()))?;
        let pid: i32 = fs::read_to_string(&file)?.trim().parse()?;
        ensure!(e2e::process::runs(pid));
        for id in ["one", "two"] {
            world.remove(id)?;
        }
        Ok(())
    }

    fn at_a_terminal(world) {
        // The image's own command, a shell.
        let mut terminal = world.ctr_at_terminal(&format!("run --rm -t {IMAGE} one"))?;
        terminal.type_in("echo mark$((20+3)); tty\n")?;
        terminal.until_shown("mark23")?;
        terminal.until_shown("/dev/pts/0")?;
        terminal.type_in("while :; do stty size; sleep 0.1; done\n")?;
        terminal.until_size(80, 24)?;
        terminal.until_size(132, 43)?;
        terminal.type_in("\u{3}")?;
        terminal.type_in("exit 7\n")?;
        let (status, shown) = terminal.wait()?;
        ensure!(status == 7, "{status}: {shown}");
        Ok(())
    }

    fn environment_folder_and_user(world) {
        let shown = run(world, "--env A=b --env FROM_IMAGE=no", "sh -c 'echo $A $FROM_IMAGE'")?;
        ensure!(shown == "b no\n", "{shown:?}");
        let file = world.path("files/env");
        fs::write(&file, "C=d\n# comment\nE=f g\n")?;
        ensure!(run(world, &format!("--env-file {}", file.display()), "sh -c 'echo $C $E'").is_ok_and(|shown| shown == "d f g\n"));
        ensure!(run(world, "--cwd /data", "pwd")? == "/data\n");
        ensure!(run(world, "--cwd /made/new", "pwd")? == "/made/new\n");
        ensure!(run(world, "--label x=y --annotation z=w", "true")?.is_empty());
        Ok(())
    }

    fn user(world) {
        if world.ctr("run --help")?.contains("--user ") {
            ensure!(run(world, "--user 1234:5678", "id -u")? == "1234\n");
            ensure!(run(world, "--user keeper", "id -un")? == "keeper\n");
            ensure!(run(world, "--user keeper", "id -G")?.contains("2000"));
            let error = world.ctr_fails(&format!("run --rm --user nobody-here {IMAGE} one true"))?;
            ensure!(!error.is_empty());
        } else {
            // `ctr run` 1.6 has no such option: the user of the image's configuration, then.
            let mut builder = e2e::image::Builder::new("docker.io/library/user:1", e2e::image::small_layers()?);
            builder.config["User"] = "keeper".into();
            let archive = world.path("files/user.tar");
            builder.write(&archive, e2e::image::Format::Oci)?;
            world.import(&archive)?;
            let shown = world.ctr("run --rm docker.io/library/user:1 one id -un")?;
            ensure!(shown == "keeper\n", "{shown:?}");
        }
        ensure!(world.ctr("containers ls -q")?.is_empty());
        Ok(())
    }

    fn mounts(world) {
        let folder = world.path("files/shared");
        fs::create_dir(&folder)?;
        fs::write(folder.join("in"), "from outside\n")?;
        let bind = |options: &str| format!("--mount type=bind,src={},dst=/shared,options={options}", folder.display());
        ensure!(run(world, &bind("rbind:rw"), "sh -c 'cat /shared/in; echo inside > /shared/out'")? == "from outside\n");
        ensure!(fs::read_to_string(folder.join("out"))? == "inside\n");
        let shown = run(world, &bind("rbind:ro"), "sh -c 'touch /shared/x 2>&1; true'")?;
        ensure!(shown.contains("Read-only file system"), "{shown}");
        let shown = run(world, "--mount type=tmpfs,src=tmpfs,dst=/data,options=size=64k", "sh -c 'ls /data; grep \" /data \" /proc/mounts'")?;
        ensure!(shown.contains("tmpfs") && shown.contains("size=64k"), "{shown}");
        let error = world.ctr_fails(&format!("run --rm {} {IMAGE} one true", "--mount type=bind,src=/nothing/here,dst=/x,options=rbind"))?;
        ensure!(error.contains("no such file or directory"), "{error}");
        ensure!(world.ctr("containers ls -q")?.is_empty());
        let shown = run(world, "--read-only", "sh -c 'touch /x 2>&1; touch /dev/shm/x && echo shm'")?;
        ensure!(shown.contains("Read-only file system") && shown.ends_with("shm\n"), "{shown}");
        Ok(())
    }

    fn networks(world) {
        let own = run(world, "", "sh -c 'ls /sys/class/net; cat /proc/net/dev | wc -l'")?;
        ensure!(own.starts_with("lo\n") && own.lines().count() == 2, "{own}");
        let hosts = fs::read_link("/proc/self/ns/net")?.display().to_string();
        ensure!(run(world, "--net-host", "sh -c 'ls -l /proc/self/ns/net'")?.contains(&hosts));
        ensure!(!run(world, "", "sh -c 'ls -l /proc/self/ns/net'")?.contains(&hosts));
        ensure!(run(world, "--net-host", "hostname")? == run(world, "--net-host", "sh -c 'cat /proc/sys/kernel/hostname'")?);
        Ok(())
    }

    fn limits(world) {
        world.ctr(&format!("run -d --memory-limit 33554432 --cpu-shares 512 {IMAGE} one sleep 1000"))?;
        let group = e2e::process::cgroups(&format!("{}/one", world.namespace()));
        let limit = group.iter().find_map(|folder| {
            ["memory.limit_in_bytes", "memory.max"].iter().find_map(|file| fs::read_to_string(folder.join(file)).ok())
        });
        if e2e::process::has_memory_controller() {
            ensure!(limit.as_deref().map(str::trim) == Some("33554432"), "{limit:?} in {group:?}");
            let text = world.ctr("tasks metrics one")?;
            ensure!(text.contains("33554432"), "{text}");
        }
        world.remove("one")?;
        // More than the limit: killed.
        let output = world.try_ctr(&format!(
            "run --rm --memory-limit 8388608 {IMAGE} one sh -c 'dd if=/dev/zero of=/dev/null bs=64M count=1'"
        ))?;
        ensure!(!e2e::process::has_memory_controller() || output.status == 137, "{output}");
        Ok(())
    }

    fn rights(world) {
        let effective = |options: &str| -> Result<u64> {
            let text = run(world, options, "grep CapEff /proc/self/status")?;
            Ok(u64::from_str_radix(text.split_whitespace().nth(1).context("no CapEff")?, 16)?)
        };
        let (net_admin, chown) = (1 << 12, 1);
        let usual = effective("")?;
        ensure!(usual & net_admin == 0 && usual & chown != 0, "{usual:x}");
        ensure!(effective("--cap-add CAP_NET_ADMIN")? == usual | net_admin);
        ensure!(effective("--cap-drop CAP_CHOWN")? == usual & !chown);
        let seccomp = |options: &str| run(world, options, "grep Seccomp: /proc/self/status");
        ensure!(seccomp("")?.trim_end().ends_with('0'));
        ensure!(seccomp("--seccomp")?.trim_end().ends_with('2'));
        let error = world.try_ctr(&format!("run --rm --seccomp {IMAGE} one unshare -U true"))?;
        ensure!(error.status != 0, "unshare was let through: {error}");
        let privileges = |options: &str| run(world, options, "grep NoNewPrivs /proc/self/status");
        ensure!(privileges("")?.trim_end().ends_with('1'));
        ensure!(privileges("--allow-new-privs")?.trim_end().ends_with('0'));
        Ok(())
    }

    fn a_root_folder_instead_of_an_image(world) {
        let root = root_folder(world)?;
        let shown = world.ctr(&format!("run --rm --rootfs {} one /bin/busybox echo rooted", root.display()))?;
        ensure!(shown == "rooted\n", "{shown:?}");
        ensure!(root.join("bin/busybox").exists(), "the folder was removed");
        Ok(())
    }

    fn another_runtime_root_and_log(world) {
        let root = world.path("files/runtime");
        world.ctr(&format!("run -d --runc-root {} {IMAGE} one sleep 1000", root.display()))?;
        let state = world.inside(&root).join(world.namespace()).join("one/state.json");
        ensure!(state.is_file(), "no {}", state.display());
        world.remove("one")?;
        let log = world.path("files/one.log");
        world.ctr(&format!("run -d --log-uri file://{} {IMAGE} one sh -c 'echo logged; echo more >&2'", log.display()))?;
        e2e::wait::until("the log", || {
            let text = fs::read_to_string(&log)?;
            ensure!(text.contains("logged\n") && text.contains("more\n"), "{text}");
            Ok(())
        })?;
        world.remove("one")?;
        Ok(())
    }
}

/// crun 1.8 refuses a hybrid layout unless the v2 hierarchy is out of its sight.
mod crun {
    use super::*;
    use e2e::Maker;
    use e2e::world::{Options, check};

    fn body(world: &World) -> Result<()> {
        if world.options().ctr == Maker::Forky {
            return with_an_older_spec(world);
        }
        ensure!(run(world, "--runc-binary crun", "echo by crun")? == "by crun\n");
        world.ctr(&format!("run -d --runc-binary crun {IMAGE} one sleep 1000"))?;
        let state = world
            .inside(std::path::Path::new("/run/containerd/runc"))
            .join(world.namespace())
            .join("one");
        ensure!(state.join("status").is_file(), "crun keeps no state in {}", state.display());
        ensure!(world.ctr("tasks exec --exec-id e one echo again")? == "again\n");
        world.remove("one")?;
        let error = world.ctr_fails(&format!("run --rm --runc-binary crun {IMAGE} one nothing"))?;
        ensure!(error.contains("nothing"), "{error}");
        let error =
            world.ctr_fails(&format!("run --rm --runc-binary /no/runtime {IMAGE} one true"))?;
        ensure!(error.contains("/no/runtime"), "{error}");
        ensure!(world.ctr("containers ls -q")?.is_empty());
        Ok(())
    }

    /// `ctr` 2.1 writes specs of version 1.2, which crun 1.8 does not know: it gets one of 1.0.
    fn with_an_older_spec(world: &World) -> Result<()> {
        let root = root_folder(world)?;
        let mut spec: serde_json::Value = serde_json::from_str(&world.ctr("oci spec")?)?;
        spec["ociVersion"] = "1.0.2".into();
        spec["root"] = serde_json::json!({"path": root, "readonly": true});
        spec["process"]["args"] = serde_json::json!(["/bin/busybox", "echo", "by crun"]);
        spec["linux"]["cgroupsPath"] = format!("/{}/one", world.namespace()).into();
        let file = world.path("files/spec.json");
        fs::write(&file, spec.to_string())?;
        let line = format!("run --rm --runc-binary crun --config {} one", file.display());
        ensure!(world.ctr(&line)? == "by crun\n");
        Ok(())
    }

    fn with(ctr: Maker) {
        let options = Options::new(ctr).map(|options| Options { hide_unified: true, ..options });
        check(options, body);
    }

    #[test]
    fn ctr_1_6() {
        with(Maker::Bookworm);
    }

    #[test]
    fn ctr_2_1() {
        with(Maker::Forky);
    }
}
