//! Networks, which hang on the hooks of a container's start.

use anyhow::{Result, ensure};
use e2e::docker::{DockerHost, Steps};
use e2e::wait;

use super::{IMAGE, remove};

/// A server of one line for each connection.
fn server(host: &DockerHost, options: &str, name: &str) -> Result<()> {
    let script = "while :; do echo from $(hostname) | busybox nc -l -p 80; done";
    let options = format!("--detach --name {name} --hostname {name} {options}");
    host.docker(&format!("run {options} {IMAGE} sh -c '{script}'")).map(drop)
}

/// What the server at `address` says to a container with `options`.
fn asked(host: &DockerHost, options: &str, address: &str) -> Result<String> {
    wait::until(&format!("an answer of {address}"), || {
        host.docker(&format!("run --rm {options} {IMAGE} busybox nc -w 5 {address} 80 "))
    })
}

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    steps.step("the bridge that is always there", |host| {
        server(host, "", "web")?;
        let address = host.inspect("web", "{{.NetworkSettings.IPAddress}}")?;
        let shown = asked(host, "", &address)?;
        ensure!(shown == "from web\n", "{shown}");
        remove(host, "web")
    });
    steps.step("a published port", |host| {
        server(host, "--publish 127.0.0.1:8080:80", "web")?;
        let shown = host.docker("port web")?;
        ensure!(shown.trim() == "80/tcp -> 127.0.0.1:8080", "{shown}");
        let answer = wait::until("an answer at the port", || {
            let shown = host.world().run("busybox", &["nc", "-w", "5", "127.0.0.1", "8080"])?;
            ensure!(!shown.is_empty());
            Ok(shown)
        })?;
        ensure!(answer == "from web\n", "{answer}");
        remove(host, "web")?;
        // The port is free again.
        server(host, "--publish 127.0.0.1:8080:80", "web")?;
        remove(host, "web")
    });
    steps.step("a network with names", |host| {
        host.docker("network create --subnet 10.77.0.0/24 named")?;
        server(host, "--network named --network-alias alias --ip 10.77.0.9", "web")?;
        for address in ["web", "alias", "10.77.0.9"] {
            let shown = asked(host, "--network named", address)?;
            ensure!(shown == "from web\n", "{address}: {shown}");
        }
        Ok(())
    });
    steps.step("network connect and disconnect", |host| {
        host.docker("network create second")?;
        host.docker("network connect second web")?;
        let shown = asked(host, "--network second", "web")?;
        ensure!(shown == "from web\n", "{shown}");
        host.docker("network disconnect second web")?;
        let shown =
            host.inspect("web", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}")?;
        ensure!(shown == "named", "{shown}");
        remove(host, "web")?;
        host.docker("network rm named second").map(drop)
    });
    steps.step("--network none and host", |host| {
        let shown = host.docker(&format!("run --rm --network none {IMAGE} ls /sys/class/net"))?;
        ensure!(shown == "lo\n", "{shown}");
        let shown = host.docker(&format!("run --rm --network host {IMAGE} ls /sys/class/net"))?;
        ensure!(shown.contains("docker0"), "{shown}");
        Ok(())
    });
}
