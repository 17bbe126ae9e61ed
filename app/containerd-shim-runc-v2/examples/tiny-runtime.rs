//! An OCI runtime that does as little as one can, for a test that counts what the shim does: its
//! containers are a sleeping process, its execs end at once with status 7.

#![expect(clippy::unwrap_used, reason = "a test's program ends when something is wrong")]
#![expect(clippy::zombie_processes, reason = "its child outlives it, and is the shim's to collect")]

use std::fs;
use std::path::Path;

use kernel_process::Fork;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let place = words.iter().position(|word| word == flag).unwrap();
        Path::new(&words[place + 1])
    };
    let is = |command: &str| words.iter().any(|word| word == command);
    if is("create") {
        let sleep = std::process::Command::new("/bin/sleep").arg("100000").spawn().unwrap();
        fs::write(value("--pid-file"), sleep.id().to_string()).unwrap();
    } else if is("exec") {
        match kernel_process::fork_single_threaded().unwrap() {
            Fork::Child => std::process::exit(7),
            Fork::Parent(pid) => fs::write(value("--pid-file"), pid.to_string()).unwrap(),
        }
    } else if is("kill") {
        let pid = fs::read_to_string(value("--log").with_file_name("init.pid")).unwrap();
        let signal = words.last().unwrap().parse().unwrap();
        kernel_process::send_signal(pid.parse().unwrap(), signal).unwrap();
    }
}
