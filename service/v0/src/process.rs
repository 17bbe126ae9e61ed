//! Processes as clients describe them, as OCI runtimes want them, and as they lie on disk.

use api_grpc::v0;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What 0.2 uses for a stream that nobody named.
pub(crate) const NULL: &str = "/dev/null";

/// Where a process's streams go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stdio {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Stdio {
    /// Streams as a client names them; none is `/dev/null`.
    pub(crate) fn new(stdin: &str, stdout: &str, stderr: &str) -> Self {
        let path = |path: &str| if path.is_empty() { NULL } else { path }.to_owned();
        Stdio { stdin: path(stdin), stdout: path(stdout), stderr: path(stderr) }
    }

    /// A path as the shim wants it, for which no path is no stream.
    pub(crate) fn for_shim(path: &str) -> String {
        if path == NULL { String::new() } else { path.to_owned() }
    }
}

/// The fields of an OCI process that the API shows. Others stay with the runtime.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OciProcess {
    pub(crate) terminal: bool,
    pub(crate) user: User,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cwd: String,
    /// An object of five lists; before 1.0 of the specification, one list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rlimits: Option<Vec<Rlimit>>,
    pub(crate) no_new_privileges: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) apparmor_profile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) selinux_label: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) additional_gids: Option<Vec<u32>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Rlimit {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) hard: u64,
    pub(crate) soft: u64,
}

impl OciProcess {
    /// The process that a client wants to add.
    pub(crate) fn of_request(request: &v0::AddProcessRequest) -> Self {
        let user = request.user.clone().unwrap_or_default();
        // COMPAT: one list for all sets but the ambient one, also when it is empty.
        let list = &request.capabilities;
        let capabilities = json!({
            "bounding": list, "effective": list, "inheritable": list, "permitted": list,
        });
        let limit = |limit: &v0::Rlimit| Rlimit {
            kind: limit.r#type.clone(),
            hard: limit.hard,
            soft: limit.soft,
        };
        OciProcess {
            terminal: request.terminal,
            user: User {
                uid: user.uid,
                gid: user.gid,
                additional_gids: Some(user.additional_gids).filter(|gids| !gids.is_empty()),
            },
            args: Some(request.args.clone()),
            env: Some(request.env.clone()),
            cwd: request.cwd.clone(),
            capabilities: Some(capabilities),
            rlimits: Some(request.rlimits.iter().map(limit).collect::<Vec<_>>())
                .filter(|limits| !limits.is_empty()),
            no_new_privileges: request.no_new_privileges,
            apparmor_profile: request.apparmor_profile.clone(),
            selinux_label: request.selinux_label.clone(),
        }
    }

    /// The effective capabilities, which are the ones that State shows.
    fn effective(&self) -> Vec<String> {
        let list = match &self.capabilities {
            Some(Value::Array(list)) => list,
            Some(Value::Object(sets)) => match sets.get("effective") {
                Some(Value::Array(list)) => list,
                _ => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// The message of State, without the pid on the host.
    pub(crate) fn message(&self, name: &str, stdio: &Stdio) -> v0::Process {
        let limit = |limit: &Rlimit| v0::Rlimit {
            r#type: limit.kind.clone(),
            soft: limit.soft,
            hard: limit.hard,
        };
        v0::Process {
            pid: name.to_owned(),
            terminal: self.terminal,
            user: Some(v0::User {
                uid: self.user.uid,
                gid: self.user.gid,
                additional_gids: self.user.additional_gids.clone().unwrap_or_default(),
            }),
            args: self.args.clone().unwrap_or_default(),
            env: self.env.clone().unwrap_or_default(),
            cwd: self.cwd.clone(),
            system_pid: 0,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            capabilities: self.effective(),
            apparmor_profile: self.apparmor_profile.clone(),
            selinux_label: self.selinux_label.clone(),
            no_new_privileges: self.no_new_privileges,
            rlimits: self.rlimits.iter().flatten().map(limit).collect(),
        }
    }
}

/// `process.json` of 0.2: an OCI process and what the shim has to know.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct StoredProcess {
    #[serde(flatten)]
    pub(crate) process: OciProcess,
    pub(crate) exec: bool,
    #[serde(rename = "containerdStdin")]
    pub(crate) stdin: String,
    #[serde(rename = "containerdStdout")]
    pub(crate) stdout: String,
    #[serde(rename = "containerdStderr")]
    pub(crate) stderr: String,
    #[serde(rename = "runtimeArgs")]
    pub(crate) runtime_args: Option<Vec<String>>,
    #[serde(rename = "noPivotRoot")]
    pub(crate) no_pivot_root: bool,
    pub(crate) checkpoint: String,
    #[serde(rename = "rootUID")]
    pub(crate) root_uid: i64,
    #[serde(rename = "rootGID")]
    pub(crate) root_gid: i64,
}

impl StoredProcess {
    pub(crate) fn stdio(&self) -> Stdio {
        Stdio::new(&self.stdin, &self.stdout, &self.stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_an_oci_process() {
        let request = v0::AddProcessRequest {
            user: Some(v0::User { uid: 1, gid: 2, additional_gids: vec![3] }),
            args: vec!["sh".to_owned()],
            cwd: "/".to_owned(),
            capabilities: vec!["CAP_KILL".to_owned()],
            rlimits: vec![v0::Rlimit { r#type: "RLIMIT_NOFILE".to_owned(), soft: 1, hard: 2 }],
            ..v0::AddProcessRequest::default()
        };
        let process = OciProcess::of_request(&request);
        let json = serde_json::to_value(&process).unwrap();
        assert_eq!(json["user"], json!({"uid": 1, "gid": 2, "additionalGids": [3]}));
        assert_eq!(json["capabilities"]["permitted"], json!(["CAP_KILL"]));
        assert!(json["capabilities"].get("ambient").is_none());
        assert_eq!(json["rlimits"], json!([{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}]));
        assert_eq!(json["noNewPrivileges"], json!(false));
        let shown = process.message("e", &Stdio::new("", "/o", ""));
        assert_eq!(shown.capabilities, ["CAP_KILL"]);
        assert_eq!((shown.stdin.as_str(), shown.stdout.as_str()), (NULL, "/o"));
        assert_eq!(shown.rlimits, request.rlimits);
    }

    #[test]
    fn old_and_odd_processes_are_read() {
        let old: OciProcess = serde_json::from_value(json!({
            "args": ["a"], "env": null, "capabilities": ["CAP_CHOWN"], "user": {"uid": 5}
        }))
        .unwrap();
        assert_eq!(old.message("init", &Stdio::default()).capabilities, ["CAP_CHOWN"]);
        let stored = StoredProcess { process: old, exec: true, ..StoredProcess::default() };
        let json = serde_json::to_value(&stored).unwrap();
        assert_eq!((&json["exec"], &json["args"]), (&json!(true), &json!(["a"])));
        let again: StoredProcess = serde_json::from_value(json).unwrap();
        assert_eq!(again.process.user.uid, 5);
    }
}
