//! `ctr content`.

use anyhow::{Context, ensure};
use e2e::{Table, image, words};

use crate::with_all_ctrs;

with_all_ctrs! {
    fn list_and_get(world) {
        let text = world.ctr("content ls")?;
        let heads: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(heads == ["DIGEST", "SIZE", "AGE", "LABELS"], "{heads:?}");
        let digests = world.ctr("content ls -q")?;
        // The archive's index is collected some time later.
        ensure!((4..=5).contains(&digests.lines().count()), "{digests}");
        for digest in digests.lines() {
            let mut command = world.ctr_command(&format!("content get {digest}"))?;
            let bytes = command.output()?.stdout;
            let right = image::digest(&bytes) == digest;
            ensure!(right || !world.ctr("content ls -q")?.contains(digest), "{digest} has other bytes");
        }
        // The collector's references are labels of the manifest.
        ensure!(text.contains("containerd.io/gc.ref.content.config=sha256:"), "{text}");
        ensure!(text.contains("containerd.io/gc.ref.content.l.0=sha256:"), "{text}");
        ensure!(text.contains("containerd.io/gc.ref.snapshot.overlayfs=sha256:"), "{text}");
        let error = world.ctr_fails(&format!("content get {}", image::digest(b"nothing")))?;
        ensure!(error.contains("not found"), "{error}");
        Ok(())
    }

    fn ingest_label_and_remove(world) {
        let bytes = b"some content\n".repeat(1000);
        let digest = image::digest(&bytes);
        let size = bytes.len();
        let take = |line: &str| world.ctr_with_input(line, Some(&bytes));
        world.ingest(&format!("--expected-digest {digest} --expected-size {size} first"), &bytes)?;
        ensure!(world.ctr("content ls -q")?.contains(&digest), "not there");
        ensure!(world.ctr(&format!("content get {digest}"))?.as_bytes() == bytes);
        let wrong = image::digest(b"other");
        let error = take(&format!("content ingest --expected-digest {wrong} second"))?.failed()?;
        ensure!(error.contains("unexpected commit digest") && error.contains("failed precondition"), "{error}");
        let error = take(&format!("content ingest --expected-digest {wrong} --expected-size 5 third"))?.failed()?;
        ensure!(error.contains("failed precondition") || error.contains("out of range"), "{error}");
        ensure!(!world.ctr("content ls -q")?.contains(&wrong), "wrong content is there");
        world.ctr(&format!("content label {digest} kind=text"))?;
        let row = world.ctr("content ls")?;
        let row = row.lines().find(|line| line.starts_with(&digest)).context("not listed")?;
        ensure!(row.contains("kind=text"), "{row}");
        let found = world.ctr("content ls -q labels.kind==text")?;
        ensure!(found.trim() == digest, "{found}");
        let shown = world.ctr(&format!("content rm {digest}"))?;
        ensure!(shown.trim() == digest, "{shown}");
        ensure!(!world.ctr("content ls -q")?.contains(&digest), "still there");
        // `ctr` says nothing of what is not there.
        world.ctr(&format!("content rm {digest}"))?;
        Ok(())
    }

    fn active_and_interrupted(world) {
        let head = Table::parse(&world.ctr("content active")?)?;
        ensure!(head.heads == ["REF", "SIZE", "AGE"], "{head:?}");
        // A client that is killed while it writes leaves an ingest that can be seen and used again.
        let mut command = world.ctr_command("content ingest interrupted")?;
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        std::io::Write::write_all(&mut input, &vec![b'x'; 8 << 20])?;
        e2e::wait::until("the ingest to be seen", || {
            let text = world.ctr("content active")?;
            let row = text.lines().find(|line| line.starts_with("interrupted"));
            let row = row.with_context(|| text.clone())?;
            ensure!(!words::split(row)[1].starts_with("0B"), "{row}");
            Ok(())
        })?;
        child.kill()?;
        child.wait()?;
        drop(input);
        let whole = vec![b'x'; 9 << 20];
        e2e::wait::until("the lock of the dead client's ingest to go", || {
            world.ctr_with_input("content ingest interrupted", Some(&whole))?.ok()
        })?;
        // It is there, unless the collector was here in between.
        let take = || world.ctr_with_input("content ingest another", Some(&whole));
        e2e::wait::until("the content to be listed", || {
            take()?.ok()?;
            ensure!(world.ctr("content ls -q")?.contains(&image::digest(&whole)));
            Ok(())
        })?;
        ensure!(!world.ctr("content active")?.contains("interrupted"), "still active");
        Ok(())
    }
}
