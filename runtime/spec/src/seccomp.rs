//! The default filter of system calls.
//!
//! What is not listed fails with `EPERM`. Calls that belong to a capability are listed only for
//! containers that have it.

use serde_json::{Value, json};

/// Calls that every container may make.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir \
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod \
    fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock \
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat \
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 \
    getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority \
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage \
    getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc \
    kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat \
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat \
    mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap \
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep \
    newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 \
    pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 \
    prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead \
    readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages \
    removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam \
    sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop \
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 \
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority \
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit \
    set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr \
    shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn \
    socketcall socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit \
    umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 \
    waitid waitpid write writev process_vm_readv process_vm_writev ptrace";

/// Calls that go with a capability.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// The family of sockets into a virtual machine's host; refused, as it passes network namespaces.
const AF_VSOCK: u64 = 40;
/// What `personality` may be set to: Linux, its 32-bit variant, the same without randomised
/// addresses, and the question.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// `ENOSYS`: makes the C library fall back from `clone3` to `clone`, whose flags can be filtered.
const ENOSYS: u32 = 38;

/// The architectures whose calls a process may make on this machine.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: [&str; 0] = [];

/// Calls that only this machine has.
#[cfg(target_arch = "x86_64")]
const NATIVE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
const NATIVE: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush \
    set_tls";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: &str = "";

fn allow(names: &str) -> Value {
    let names: Vec<&str> = names.split_ascii_whitespace().collect();
    json!({"names": names, "action": "SCMP_ACT_ALLOW"})
}

fn allow_if(name: &str, argument: &Value) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
}

/// The default filter for a process with these capabilities in its bounding set, in the form of
/// the OCI spec's `linux.seccomp`.
#[must_use]
pub fn default_profile(bounding: &[String]) -> Value {
    let has = |name: &str| bounding.iter().any(|known| known == name);
    let mut calls = vec![allow(ALLOWED), allow(NATIVE)];
    calls.push(allow_if("socket", &json!({"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"})));
    for value in PERSONALITIES {
        let argument = json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"});
        calls.push(allow_if("personality", &argument));
    }
    for (capability, names) in WITH_CAPABILITY {
        if has(capability) {
            calls.push(allow(names));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        let argument = json!({"index": 0, "value": CLONE_NAMESPACES, "op": "SCMP_CMP_MASKED_EQ"});
        calls.push(allow_if("clone", &argument));
        let clone3 = json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS});
        calls.push(clone3);
    }
    calls.retain(|call| call["names"].as_array().is_some_and(|names| !names.is_empty()));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ARCHITECTURES,
        "syscalls": calls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Value) -> Vec<&str> {
        let calls = profile["syscalls"].as_array().unwrap().iter();
        let allowed = calls.filter(|call| call["action"] == "SCMP_ACT_ALLOW");
        allowed
            .flat_map(|call| call["names"].as_array().unwrap())
            .map(|n| n.as_str().unwrap())
            .collect()
    }

    #[test]
    fn capabilities_open_calls() {
        let plain = default_profile(&[]);
        assert!(names(&plain).contains(&"openat") && !names(&plain).contains(&"mount"));
        assert!(!names(&plain).contains(&"clone3") && names(&plain).contains(&"clone"));
        let admin = default_profile(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(names(&admin).contains(&"mount") && names(&admin).contains(&"clone3"));
        for never in ["keyctl", "add_key", "kexec_load", "userfaultfd", "io_uring_setup"] {
            assert!(!names(&admin).contains(&never), "{never}");
        }
    }
}
