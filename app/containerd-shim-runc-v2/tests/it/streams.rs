//! Output, input and terminals of real processes.

use std::io::{Read, Write};

use api_shim::task::*;

use crate::world::{World, call, read_all};

#[tokio::test]
async fn all_output_of_a_fast_container_arrives() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sh", "-c", "yes | head -c 8388608; echo end >&2"]);
    let shim = world.start(&bundle, "one").await;
    let mut create = world.create(&shim);
    (create.stdout, create.stderr) = (world.fifo("out"), world.fifo("err"));
    let (out, err) = (read_all(&create.stdout), read_all(&create.stderr));
    call!(shim, create, create).unwrap();
    call!(shim, start, shim.start_request("")).unwrap();
    assert_eq!(call!(shim, wait, shim.wait_request("")).unwrap().exit_status, 0);
    call!(shim, delete, shim.delete_request("")).unwrap();
    let out = out.await.unwrap();
    assert_eq!(out.len(), 8 << 20);
    assert!(out.chunks(2).all(|chunk| chunk == b"y\n"));
    assert_eq!(err.await.unwrap(), b"end\n");
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
