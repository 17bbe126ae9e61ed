//! What `ctr` shows of our daemon, beside what it shows of Debian's.

use anyhow::{Result, ensure};
use e2e::world::{IMAGE, Options};
use e2e::{Maker, Table, World, words};

use crate::skip;

/// What a client sees, line by line, after the same work: without what differs by nature (process
/// ids, times, ages, sizes of folders).
fn seen(world: &World) -> Result<Vec<String>> {
    let namespace = world.namespace();
    let mut seen = Vec::new();
    let mut add = |what: &str, text: String| {
        seen.push(format!("== {what}"));
        seen.extend(
            text.replace(namespace, "NAMESPACE").lines().map(|line| line.trim_end().to_owned()),
        );
    };
    let columns = |line: &str, wanted: &[usize]| -> Result<String> {
        let text = world.ctr(line)?;
        let rows = text.lines().map(|line| {
            let words = words::split(line);
            wanted.iter().filter_map(|&at| words.get(at).cloned()).collect::<Vec<_>>().join(" ")
        });
        Ok(rows.collect::<Vec<_>>().join("\n"))
    };
    world.ctr(&format!("containers create --label a=b {IMAGE} made sleep 1000"))?;
    world.ctr(&format!("run -d {IMAGE} runs sleep 1000"))?;
    world.ctr("leases create --id lease a=b")?;
    world.ctr("snapshots prepare work")?;
    add("images", world.ctr("images ls")?);
    add("images check", world.ctr("images check")?);
    add("containers", world.ctr("containers ls")?);
    add("containers -q", world.ctr("containers ls -q")?);
    add("snapshots", world.ctr("snapshots ls")?);
    add("snapshots tree", world.ctr("snapshots tree")?);
    add("namespaces", world.ctr("namespaces ls")?);
    add("tasks", columns("tasks ls", &[0, 2])?);
    add("content", columns("content ls", &[0, 1])?);
    add("leases", columns("leases ls", &[0])?);
    for digest in world.ctr("content ls -q")?.lines() {
        let rows = world.ctr("content ls")?;
        let row = rows.lines().find(|line| line.starts_with(digest)).unwrap_or_default();
        let mut labels: Vec<String> = words::split(row)
            .last()
            .map(|cell| cell.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        labels.sort();
        add("labels", labels.join("\n"));
    }
    for id in ["made", "runs"] {
        let mut info: serde_json::Value =
            serde_json::from_str(&world.ctr(&format!("containers info {id}"))?)?;
        for key in ["CreatedAt", "UpdatedAt"] {
            ensure!(info[key].is_string(), "{info}");
            info[key] = "TIME".into();
        }
        add(&format!("container {id}"), serde_json::to_string_pretty(&info)?);
    }
    for line in [
        "containers info nothing",
        "containers rm nothing",
        "tasks kill nothing",
        "tasks ps nothing",
        "tasks pause nothing",
        "tasks exec --exec-id a nothing true",
        "tasks exec --exec-id a runs nothing-here",
        "tasks rm runs",
        "tasks metrics nothing",
        "tasks start runs",
        "tasks start nothing",
        "tasks resume nothing",
        "tasks resume made",
        "images tag nothing other",
        "images rm nothing",
        "images label nothing a=b",
        "images export /dev/null nothing",
        "images mount nothing /mnt",
        "snapshots info nothing",
        "snapshots rm nothing",
        "snapshots commit a nothing",
        "snapshots commit work nothing",
        "snapshots prepare work",
        "snapshots prepare a nothing",
        "snapshots view a work",
        "snapshots usage nothing",
        "snapshots mounts /mnt nothing",
        "snapshots --snapshotter nothing ls",
        "snapshots label nothing a=b",
        "snapshots diff nothing",
        "content get sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "content rm sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "content label sha256:0000000000000000000000000000000000000000000000000000000000000000 a=b",
        "content get nonsense",
        "namespaces create -- -a",
        "namespaces create a/b",
        "namespaces rm nothing",
        "namespaces rm NAMESPACE",
        "namespaces create NAMESPACE",
        "leases rm nothing",
        "leases create --id lease",
        "run --rm nothing a",
        "run --snapshotter nothing IMAGE a",
        "run --rm IMAGE runs true",
        "run --rm IMAGE a/b true",
        "run --rm IMAGE a nothing-here",
        "run --rm --runtime io.containerd.nothing.v1 IMAGE a true",
        "run --rm --cwd relative IMAGE a true",
        "containers ls 'id==\"'",
        "images ls 'nonsense'",
        "containers create IMAGE made",
    ] {
        let output =
            world.try_ctr(&line.replace("IMAGE", IMAGE).replace("NAMESPACE", namespace))?;
        add(
            &format!("ctr {line}"),
            format!(
                "status {}\n{}\n{}",
                output.status,
                output.stdout,
                without_times(&output.stderr)
            ),
        );
    }
    world.ctr("tasks rm --force runs")?;
    world.ctr("containers rm runs made")?;
    world.ctr("snapshots rm work")?;
    let left = Table::parse(&world.ctr("snapshots ls")?)?;
    add("left", format!("{:?}", left.rows));
    world.assert_clean()?;
    Ok(seen)
}

/// Log lines of `ctr` have a time in front.
fn without_times(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("time=\"") {
        Some(rest) => rest.split_once("\" ").map_or(line, |(_, rest)| rest).to_owned(),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Without what is known to differ: the width of columns, which follows the name of the namespace,
/// and error classes, which some versions say twice or leave to the code.
fn plain(section: &(String, Vec<String>)) -> (String, Vec<String>) {
    let class = |line: &str| {
        line.trim_end_matches(": not found").trim_end_matches(": invalid argument").to_owned()
    };
    let words = |line: &String| class(&line.split_whitespace().collect::<Vec<_>>().join(" "));
    (section.0.clone(), section.1.iter().map(words).collect())
}

/// The lines that differ.
fn differences(ours: &[String], theirs: &[String]) -> Vec<String> {
    let sections = |lines: &[String]| -> Vec<(String, Vec<String>)> {
        let mut sections: Vec<(String, Vec<String>)> = Vec::new();
        for line in lines {
            match line.strip_prefix("== ") {
                Some(name) => sections.push((name.to_owned(), Vec::new())),
                None => {
                    sections.last_mut().into_iter().for_each(|section| section.1.push(line.clone()))
                }
            }
        }
        sections
    };
    sections(ours)
        .into_iter()
        .zip(sections(theirs))
        .filter(|(ours, theirs)| plain(ours) != plain(theirs))
        .map(|(ours, theirs)| {
            format!(
                "== {}\nours:\n{}\ntheirs ({}):\n{}",
                ours.0,
                ours.1.join("\n"),
                theirs.0,
                theirs.1.join("\n")
            )
        })
        .collect()
}

fn compare(theirs: Maker) {
    let compare = || -> Result<()> {
        let daemon = Maker::default_daemon()?;
        if daemon != Maker::Ours && daemon != theirs {
            skip!("two versions of containerd differ by nature");
        }
        let show = |daemon: Maker| -> Result<Vec<String>> {
            let world = World::with_image(Options::new(theirs)?.pair(daemon, daemon))?;
            seen(&world)
        };
        let (ours, theirs) = (show(daemon)?, show(theirs)?);
        let differences = differences(&ours, &theirs);
        ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
        Ok(())
    };
    if let Err(error) = compare() {
        panic!("{error:?}");
    }
}

#[test]
fn with_containerd_1_6() {
    compare(Maker::Bookworm);
}

#[test]
fn with_containerd_1_7() {
    compare(Maker::Trixie);
}

#[test]
fn with_containerd_2_1() {
    compare(Maker::Forky);
}
