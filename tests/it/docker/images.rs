//! Images and volumes.

use anyhow::{Result, ensure};
use e2e::docker::{DockerHost, REGISTRY, Steps};

use super::{IMAGE, remove};

/// What a container of `image` says.
fn said(host: &DockerHost, options: &str, image: &str, command: &str) -> Result<String> {
    host.docker(&format!("run --rm {options} {image} {command}"))
}

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    images(steps);
    volumes(steps);
}

fn images(steps: &mut Steps<'_>) {
    steps.step("images, history, inspect", |host| {
        let shown = host.docker("images --format '{{.Repository}}:{{.Tag}}'")?;
        ensure!(shown == format!("{IMAGE}\n"), "{shown}");
        ensure!(host.docker(&format!("history --quiet {IMAGE}"))?.lines().count() == 2);
        let shown = host.inspect(IMAGE, "{{len .RootFS.Layers}} {{.Config.Labels.maker}}")?;
        ensure!(shown == "2 e2e", "{shown}");
        Ok(())
    });
    steps.step("the layers of the image", |host| {
        let script = "ls -A /data /opaque; cat /data/replaced; stat -c %a:%u:%g /data/kept";
        let shown = said(host, "", IMAGE, &format!("sh -c '{script}'"))?;
        let wanted = "/data:\nkept\nreplaced\nsame\n\n/opaque:\nnew\nsecond\n640:1000:1000\n";
        ensure!(shown == wanted, "{shown}");
        Ok(())
    });
    steps.step("tag and rmi", |host| {
        host.docker(&format!("tag {IMAGE} other:2"))?;
        ensure!(said(host, "", "other:2", "echo same")? == "same\n");
        let shown = host.docker("rmi other:2")?;
        ensure!(shown.contains("Untagged: ") && !shown.contains("Deleted: "), "{shown}");
        let error = host.docker_fails("run --pull never other:2 true")?;
        ensure!(error.to_lowercase().contains("no such image"), "{error}");
        Ok(())
    });
    steps.step("commit", |host| {
        let script = "echo new > /new; rm /hello";
        host.docker(&format!("run --name changed {IMAGE} sh -c '{script}'"))?;
        host.docker("commit --change 'ENV COMMITTED=yes' --message text changed committed:1")?;
        remove(host, "changed")?;
        let script = "cat /new; test -e /hello || echo gone; echo $COMMITTED";
        let shown = said(host, "", "committed:1", &format!("sh -c '{script}'"))?;
        ensure!(shown == "new\ngone\nyes\n", "{shown}");
        ensure!(host.inspect("committed:1", "{{len .RootFS.Layers}}")? == "3");
        Ok(())
    });
    steps.step("commit of what runs", |host| {
        host.docker(&format!(
            "run --detach --name changed {IMAGE} sh -c 'echo x > /x; sleep 1000'"
        ))?;
        e2e::wait::until("the file", || host.docker("exec changed test -e /x"))?;
        host.docker("commit changed running:1")?;
        ensure!(host.inspect("changed", "{{.State.Status}}")? == "running");
        remove(host, "changed")?;
        ensure!(said(host, "", "running:1", "cat /x")? == "x\n");
        host.docker("rmi running:1").map(drop)
    });
    steps.step("save, rmi, load", |host| {
        let file = host.world().path("files/saved.tar");
        let id = host.inspect("committed:1", "{{.Id}}")?;
        host.docker(&format!("save --output {} committed:1", file.display()))?;
        let shown = host.docker("rmi committed:1")?;
        ensure!(shown.contains("Deleted: "), "{shown}");
        let shown = host.docker(&format!("load --input {}", file.display()))?;
        ensure!(shown.contains("Loaded image: committed:1"), "{shown}");
        ensure!(host.inspect("committed:1", "{{.Id}}")? == id);
        ensure!(said(host, "", "committed:1", "cat /new")? == "new\n");
        Ok(())
    });
    steps.step("push and pull", |host| {
        let _registry = host.start_registry()?;
        let name = format!("{REGISTRY}/some/small:1");
        host.docker(&format!("tag committed:1 {name}"))?;
        host.docker(&format!("push {name}"))?;
        host.docker(&format!("rmi committed:1 {name}"))?;
        let shown = host.docker(&format!("pull {name}"))?;
        ensure!(shown.contains("Downloaded newer image"), "{shown}");
        ensure!(said(host, "", &name, "cat /new")? == "new\n");
        let shown = host.docker(&format!("pull {name}"))?;
        ensure!(shown.contains("Image is up to date"), "{shown}");
        let error = host.docker_fails(&format!("pull {REGISTRY}/some/nothing:1"))?;
        ensure!(error.contains("not found") || error.contains("manifest unknown"), "{error}");
        host.docker(&format!("rmi {name}")).map(drop)
    });
    steps.step("export and import", |host| {
        let file = host.world().path("files/exported.tar");
        host.docker(&format!("run --name exported {IMAGE} sh -c 'echo y > /y'"))?;
        host.docker(&format!("export --output {} exported", file.display()))?;
        remove(host, "exported")?;
        let change = "--change 'ENV PATH=/bin' --change 'CMD cat /y'";
        host.docker(&format!("import {change} {} imported:1", file.display()))?;
        ensure!(said(host, "", "imported:1", "")? == "y\n");
        ensure!(host.inspect("imported:1", "{{len .RootFS.Layers}}")? == "1");
        host.docker("rmi imported:1").map(drop)
    });
    steps.step("system df and image prune", |host| {
        host.docker(&format!("run --name used {IMAGE} sh -c 'head -c 1000000 /dev/zero > /big'"))?;
        let shown = host.docker("ps --all --size --filter name=used --format '{{.Size}}'")?;
        ensure!(shown.starts_with("1MB ") || shown.starts_with("1.0"), "{shown}");
        let shown = host.docker("system df --format '{{.Type}} {{.TotalCount}}'")?;
        ensure!(shown.contains("Images 1\n") && shown.contains("Containers 1\n"), "{shown}");
        remove(host, "used")?;
        host.docker("image prune --force").map(drop)
    });
}

fn volumes(steps: &mut Steps<'_>) {
    steps.step("a volume keeps what containers write", |host| {
        host.docker("volume create kept")?;
        said(host, "--volume kept:/v", IMAGE, "sh -c 'echo one > /v/f'")?;
        ensure!(said(host, "--volume kept:/v:ro", IMAGE, "cat /v/f")? == "one\n");
        let line = format!("run --rm --volume kept:/v:ro {IMAGE} touch /v/g");
        let error = host.docker_fails(&line)?;
        ensure!(error.contains("Read-only file system"), "{error}");
        ensure!(host.docker("volume ls --quiet")? == "kept\n");
        host.docker("volume rm kept").map(drop)
    });
    steps.step("a volume begins with the image's files", |host| {
        let shown = said(host, "--volume /data", IMAGE, "ls -A /data")?;
        ensure!(shown == "kept\nreplaced\nsame\n", "{shown}");
        Ok(())
    });
    steps.step("bind mounts", |host| {
        let folder = host.world().path("files/bound");
        std::fs::create_dir(&folder)?;
        let options = format!("--volume {}:/b", folder.display());
        said(host, &options, IMAGE, "sh -c 'echo two > /b/f'")?;
        ensure!(std::fs::read_to_string(folder.join("f"))? == "two\n");
        Ok(())
    });
    steps.step("--volumes-from", |host| {
        host.docker(&format!("run --name from --volume /v {IMAGE} sh -c 'echo three > /v/f'"))?;
        ensure!(said(host, "--volumes-from from", IMAGE, "cat /v/f")? == "three\n");
        remove(host, "from")?;
        ensure!(host.docker("volume ls --quiet")?.is_empty());
        Ok(())
    });
}
