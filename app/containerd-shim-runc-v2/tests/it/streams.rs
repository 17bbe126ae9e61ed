//! Output, input and terminals of real processes.

use std::io::{Read, Write};
use std::path::PathBuf;

use api_shim::task::*;
use api_ttrpc::code;

use crate::world::{World, call, eventually, read_all};

/// What a process writes before it ends at once.
const MUCH: usize = 64 << 20;

#[tokio::test]
async fn all_output_of_a_fast_process_arrives() {
    let world = World::new().await;
    let script = format!("yes | head -c {MUCH}; echo end >&2");
    let bundle = world.bundle("one", &["sh", "-c", &script]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    (create.stdout, create.stderr) = (world.fifo("out"), world.fifo("err"));
    let (out, err) = (read_all(&create.stdout), read_all(&create.stderr));
    shim.run(create).await;
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    all_is_there(&out.await.unwrap());
    assert_eq!(err.await.unwrap(), b"end\n");
    world.end(shim).await;
}

#[tokio::test]
async fn all_output_of_a_fast_exec_arrives() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    let script = format!("yes | head -c {MUCH}; echo end >&2");
    let mut exec = shim.exec_request("x", &["sh", "-c", &script]);
    (exec.stdout, exec.stderr) = (world.fifo("out"), world.fifo("err"));
    let (out, err) = (read_all(&exec.stdout), read_all(&exec.stderr));
    assert_eq!(shim.exec_to_end(exec).await, 0);
    all_is_there(&out.await.unwrap());
    assert_eq!(err.await.unwrap(), b"end\n");
    shim.remove().await;
    world.end(shim).await;
}

fn all_is_there(output: &[u8]) {
    assert_eq!(output.len(), MUCH);
    assert!(output.chunks(4096).all(|chunk| chunk == b"y\n".repeat(chunk.len() / 2)));
}

#[tokio::test]
async fn fifos_that_vanish_harm_nobody() {
    let world = World::new().await;
    let script = "read line; echo got $line; : >/tmp/done; sleep 1000";
    let bundle = world.bundle("one", &["sh", "-c", script]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    (create.stdin, create.stdout) = (world.fifo("in"), world.fifo("out"));
    let mut input = std::fs::OpenOptions::new().read(true).write(true).open(&create.stdin).unwrap();
    let out = read_all(&create.stdout);
    let paths = [create.stdin.clone(), create.stdout.clone()];
    shim.run(create).await;
    for path in &paths {
        std::fs::remove_file(path).unwrap();
    }
    // Who has them open is served; who comes too late is told what is missing.
    input.write_all(b"it\n").unwrap();
    let exec = |exec_id: &str| ExecProcessRequest {
        stdout: paths[1].clone(),
        ..shim.exec_request(exec_id, &["true"])
    };
    call!(shim, exec, exec("x")).unwrap();
    let status = call!(shim, start, shim.start_request("x")).unwrap_err();
    assert!(status.message.contains("no such file or directory"), "{}", status.message);
    call!(shim, delete, shim.delete_request("x")).unwrap();
    let close = CloseIoRequest { id: "one".to_owned(), exec_id: String::new(), stdin: true };
    call!(shim, close_io, close).unwrap();
    let done = world.path("image/tmp/done");
    crate::world::eventually("the output", || done.exists()).await;
    shim.remove().await;
    assert_eq!(out.await.unwrap(), b"got it\n");
    world.end(shim).await;
}

#[tokio::test]
async fn a_reader_that_stalls_beyond_the_delete_gets_everything() {
    // What a pipe and a fifo hold together, so that the process can end.
    const LENGTH: usize = 120_000;
    let world = World::new().await;
    let script = format!("yes | head -c {LENGTH}");
    let bundle = world.bundle("one", &["sh", "-c", &script]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.stdout = world.fifo("out");
    let path = create.stdout.clone();
    let reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(path).unwrap();
    shim.run(create).await;
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    // The shim is asked to leave, and does not before its last byte is read.
    call!(shim, shutdown, ShutdownRequest { id: "one".to_owned(), now: false }).unwrap();
    let mut reader = std::fs::File::from(reader.into_blocking_fd().unwrap());
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), LENGTH);
    world.gone(&shim).await;
}

#[tokio::test]
async fn a_reader_that_stalls_blocks_its_own_process_alone() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    shim.run(world.create(&shim)).await;
    let mut stalled = shim.exec_request("stalled", &["sh", "-c", "yes | head -c 1000000; exit 6"]);
    stalled.stdout = world.fifo("stalled");
    let path = stalled.stdout.clone();
    let reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(path).unwrap();
    call!(shim, exec, stalled).unwrap();
    call!(shim, start, shim.start_request("stalled")).unwrap();
    for name in ["a", "b"] {
        let mut exec = shim.exec_request(name, &["sh", "-c", "echo free; exit 5"]);
        exec.stdout = world.fifo(name);
        let output = read_all(&exec.stdout);
        assert_eq!(shim.exec_to_end(exec).await, 5);
        assert_eq!(output.await.unwrap(), b"free\n");
    }
    let state = call!(shim, state, shim.state_request("stalled")).unwrap();
    assert_eq!(state.status(), api_shim::process::Status::Running);
    let mut reader = std::fs::File::from(reader.into_blocking_fd().unwrap());
    let rest = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all.len())
    });
    assert_eq!(call!(shim, wait, shim.wait_request("stalled")).unwrap().exit_status, 6);
    assert_eq!(rest.join().unwrap().unwrap(), 1_000_000);
    call!(shim, delete, shim.delete_request("stalled")).unwrap();
    shim.remove().await;
    world.end(shim).await;
}

#[tokio::test]
async fn clients_of_a_terminal_come_and_go() {
    let world = World::new().await;
    let script = "while read line; do echo got $line; done";
    let bundle = world.bundle_with("one", &["sh", "-c", script], |spec| {
        spec["process"]["terminal"] = true.into();
    });
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.terminal = true;
    (create.stdin, create.stdout) = (world.fifo("in"), world.fifo("out"));
    let (input, output) = (create.stdin.clone(), create.stdout.clone());
    shim.run(create).await;
    for word in ["one", "two", "three"] {
        // Each comes, says one thing, hears the answer and leaves.
        let mut writer = std::fs::OpenOptions::new().write(true).open(&input).unwrap();
        let reader = std::fs::File::open(&output).unwrap();
        writer.write_all(format!("{word}\n").as_bytes()).unwrap();
        let heard = std::thread::spawn(move || {
            let lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
            lines.map(Result::unwrap).find(|line| line.starts_with("got")).unwrap()
        });
        assert_eq!(heard.join().unwrap(), format!("got {word}"));
    }
    // Nobody is there, and the fifos are gone from their folder: the process goes on.
    std::fs::remove_file(&input).unwrap();
    std::fs::remove_file(&output).unwrap();
    let state = call!(shim, state, shim.state_request("")).unwrap();
    assert_eq!(state.status(), api_shim::process::Status::Running);
    assert_eq!(shim.remove().await.exit_status, 137);
    world.end(shim).await;
}

/// A script for `binary://`.
fn logger(world: &World, text: &str) -> PathBuf {
    let script = world.path("logger");
    std::fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    script
}

/// It is waited for only so long: half a minute.
#[tokio::test]
async fn a_logger_that_never_is_ready_fails_the_create() {
    let world = World::new().await;
    let script = logger(&world, "echo $$ >\"$2\"\nexec sleep 1000");
    let pid_file = world.path("pid");
    let bundle = world.bundle("one", &["true"]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.stdout = format!("binary://{}?pid={}", script.display(), pid_file.display());
    let status = call!(shim, create, create).unwrap_err();
    assert_eq!(status.code, code::DEADLINE_EXCEEDED, "{status:?}");
    assert!(status.message.contains("was not ready in time"), "{}", status.message);
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let process = PathBuf::from(format!("/proc/{}", pid.trim()));
    eventually("the logger's end", || !process.exists()).await;
    // Nothing of it is in the way of another try.
    shim.run(world.create(&shim)).await;
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn a_logger_of_the_user_gets_all_output() {
    let world = World::new().await;
    let log = world.path("log");
    // It takes its time until it is ready, and after the end of its streams.
    let script = logger(
        &world,
        "sleep 0.1\nexec 5>&-\ncat <&4 >\"$2.err\" &\ncat <&3 >\"$2.out\"\nwait\nsleep 0.1\n\
         echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $EXTRA\" >\"$2.end\"",
    );
    let bundle = world.bundle("one", &["sh", "-c", "yes | head -c 1000000; echo err >&2"]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.stdout = format!("binary://{}?log={}&env.EXTRA=more", script.display(), log.display());
    shim.run(create).await;
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    let text = |end: &str| std::fs::read(format!("{}.{end}", log.display())).unwrap();
    assert_eq!(text("out").len(), 1_000_000);
    assert_eq!(text("err"), b"err\n");
    assert_eq!(text("end"), b"one shim-test more\n");
    world.end(shim).await;
}

#[tokio::test]
async fn input_is_closed_by_the_client_and_the_shim_together() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["cat"]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    (create.stdin, create.stdout) = (world.fifo("in"), world.fifo("out"));
    let (input, output) = (create.stdin.clone(), read_all(&create.stdout));
    call!(shim, create, create).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    let write = |text: &str| {
        let mut file = std::fs::OpenOptions::new().write(true).open(&input).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    // Two clients, one after the other, as before and after a restart of the daemon.
    write("hello ");
    write("world\n");
    call!(
        shim,
        close_io,
        CloseIoRequest { id: "one".to_owned(), stdin: true, ..Default::default() }
    )
    .unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    assert_eq!(output.await.unwrap(), b"hello world\n");
    world.end(shim).await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_takes_input() {
    let world = World::new().await;
    let bundle =
        world.bundle_with("one", &["sh", "-c", "read line; stty size; echo got $line"], |spec| {
            spec["process"]["terminal"] = true.into();
        });
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    create.terminal = true;
    (create.stdin, create.stdout) = (world.fifo("in"), world.fifo("out"));
    let (input, output) = (create.stdin.clone(), read_all(&create.stdout));
    call!(shim, create, create).unwrap();
    let resize =
        ResizePtyRequest { id: "one".to_owned(), width: 101, height: 37, ..Default::default() };
    call!(shim, resize_pty, resize).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    let mut client = std::fs::OpenOptions::new().write(true).open(input).unwrap();
    client.write_all(b"word\n").unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);

    let text = String::from_utf8(output.await.unwrap()).unwrap();
    assert!(text.contains("37 101\r\n"), "{text:?}");
    assert!(text.ends_with("got word\r\n"), "{text:?}");
    call!(shim, delete, shim.delete_request("")).unwrap();
    world.end(shim).await;
}

#[tokio::test]
async fn an_exec_with_a_terminal() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    let mut exec = shim.exec_request("tty", &["sh", "-c", "test -t 0 && test -t 1 && echo yes"]);
    exec.terminal = true;
    exec.stdout = world.fifo("out");
    let output = read_all(&exec.stdout);
    call!(shim, exec, exec).unwrap();
    call!(shim, start, shim.start_request("tty")).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("tty")).unwrap().exit_status, 0);
    assert_eq!(output.await.unwrap(), b"yes\r\n");
    call!(shim, delete, shim.delete_request("tty")).unwrap();
    shim.remove().await;
    world.end(shim).await;
}

#[tokio::test]
async fn a_background_process_that_holds_the_output_does_not_hold_the_delete() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "1000"]);
    let shim = world.start(&bundle, "one").await;
    call!(shim, create, world.create(&shim)).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    let mut exec = shim.exec_request("x", &["sh", "-c", "sleep 1000 & echo out"]);
    exec.stdout = world.fifo("out");
    let mut client = {
        let path = exec.stdout.clone();
        let options = tokio::net::unix::pipe::OpenOptions::new().open_receiver(path).unwrap();
        std::fs::File::from(options.into_blocking_fd().unwrap())
    };
    call!(shim, exec, exec).unwrap();
    call!(shim, start, shim.start_request("x")).unwrap();
    call!(shim, wait, shim.wait_request("x")).unwrap();
    call!(shim, delete, shim.delete_request("x")).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");
    shim.remove().await;
    world.end(shim).await;
}
