//! `ctr version`, `ctr plugins`.

use anyhow::ensure;
use e2e::Table;

use crate::with_all_ctrs;

with_all_ctrs! {
    fn version(world) {
        let text = world.ctr("version")?;
        let server = text.split("Server:").nth(1).unwrap_or_default();
        ensure!(server.contains("Version:") && server.contains("Revision:"), "{text}");
        let uuid = server.lines().find_map(|line| line.trim().strip_prefix("UUID: "));
        ensure!(uuid.is_some_and(|uuid| uuid.len() == 36), "{text}");
        ensure!(text == world.ctr("version")?, "a second answer differs");
        // The identity outlives the process.
        world.stop_daemon()?;
        world.start()?;
        ensure!(text == world.ctr("version")?, "a second daemon differs");
        Ok(())
    }

    fn plugins(world) {
        let table = Table::parse(&world.ctr("plugins ls")?)?;
        ensure!(table.heads == ["TYPE", "ID", "PLATFORMS", "STATUS"], "{:?}", table.heads);
        for (kind, id) in [
            ("io.containerd.content.v1", "content"),
            ("io.containerd.snapshotter.v1", "native"),
            ("io.containerd.snapshotter.v1", "overlayfs"),
            ("io.containerd.metadata.v1", "bolt"),
            ("io.containerd.gc.v1", "scheduler"),
            ("io.containerd.differ.v1", "walking"),
            ("io.containerd.runtime.v2", "task"),
            ("io.containerd.service.v1", "tasks-service"),
            ("io.containerd.grpc.v1", "containers"),
            ("io.containerd.grpc.v1", "tasks"),
            ("io.containerd.grpc.v1", "healthcheck"),
        ] {
            let row = table.rows.iter().find(|row| row[0] == kind && row[1] == id);
            let status = row.map(|row| row[3].as_str());
            ensure!(status == Some("ok"), "{kind} {id}: {status:?}");
        }
        // In containerd some that are not configured, or need others, count as failed.
        let failed: Vec<_> = table.rows.iter().filter(|row| row[3] == "error").collect();
        ensure!(failed.is_empty() || !world.is_ours(), "{failed:?}");
        let detailed = world.ctr("plugins ls --detailed")?;
        ensure!(detailed.contains("root") || detailed.contains("Exports"), "{detailed}");
        Ok(())
    }
}
