//! Images that are built: each instruction is a container of its own.

use std::fs;

use anyhow::ensure;
use e2e::docker::Steps;

use super::IMAGE;

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    steps.step("build", |host| {
        let folder = host.world().path("files/context");
        fs::create_dir_all(folder.join("tree/inner"))?;
        fs::write(folder.join("tree/inner/file"), "from the context\n")?;
        fs::write(
            folder.join("Dockerfile"),
            format!(
                "FROM {IMAGE} AS first\nARG WORD\nRUN echo $WORD > /word\n\
                 FROM {IMAGE}\nENV SET=yes\nCOPY tree /tree\nCOPY --from=first /word /word\n\
                 RUN chown 1000 /tree/inner/file && rm /hello\nUSER 1000\n\
                 CMD cat /tree/inner/file /word; echo $SET; id -u; ls /hello\n"
            ),
        )?;
        let line = format!("build --tag built:1 --build-arg WORD=argument {}", folder.display());
        host.docker(&line)?;
        let output = host.try_docker("run --rm built:1")?;
        let wanted = "from the context\nargument\nyes\n1000\n";
        ensure!(output.status == 1 && output.stdout == wanted, "{output}");
        // The second time nothing has to run.
        let shown = host.docker(&line)?;
        ensure!(shown.matches("Using cache").count() >= 5, "{shown}");
        Ok(())
    });
    steps.step("build with BuildKit", |host| {
        let folder = host.world().path("files/context");
        let line = format!("--tag kit:1 --build-arg WORD=argument {}", folder.display());
        host.build(&line)?;
        let output = host.try_docker("run --rm kit:1")?;
        let wanted = "from the context\nargument\nyes\n1000\n";
        ensure!(output.status == 1 && output.stdout == wanted, "{output}");
        let shown = host.build(&line)?;
        ensure!(shown.matches("CACHED").count() >= 3, "{shown}");
        host.docker("rmi kit:1")?;
        host.docker("builder prune --all --force").map(drop)
    });
    steps.step("build with an instruction that fails", |host| {
        let folder = host.world().path("files/failing");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("Dockerfile"), format!("FROM {IMAGE}\nRUN exit 42\n"))?;
        let error = host.docker_fails(&format!("build {}", folder.display()))?;
        ensure!(error.contains("returned a non-zero code: 42"), "{error}");
        host.docker("container prune --force")?;
        host.docker("rmi built:1")?;
        host.docker("image prune --force").map(drop)
    });
}
