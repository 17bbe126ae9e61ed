//! Compiles the messages of a shim from `../proto`, without protoc.

use std::error::Error;
use std::fmt::Write as _;

use prost_build::{Comments, Method, Service, ServiceGenerator};

/// What a shim says and hears, and nothing else.
const FILES: [&str; 19] = [
    "cgroups/v1.proto",
    "cgroups/v2.proto",
    "containerd/events.proto",
    "containerd/image_events.proto",
    "containerd/options/linux_runc.proto",
    "containerd/options/runc.proto",
    "containerd/options/runtimeoptions.proto",
    "containerd/runtime/bootstrap.proto",
    "containerd/runtime/events_ttrpc.proto",
    "containerd/runtime/sandbox.proto",
    "containerd/runtime/task_v3.proto",
    "containerd/types/descriptor.proto",
    "containerd/types/event.proto",
    "containerd/types/introspection.proto",
    "containerd/types/metrics.proto",
    "containerd/types/mount.proto",
    "containerd/types/platform.proto",
    "containerd/types/sandbox.proto",
    "containerd/types/task.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto");
    println!("cargo:rerun-if-changed=build.rs");
    let files = protox::compile(FILES, ["../proto"])?;
    prost_build::Config::new()
        .enable_type_names()
        // Sorted maps: the same message is always the same bytes.
        .btree_map(["."])
        .include_file("shim.rs")
        .service_generator(Box::new(TtrpcGenerator))
        .compile_fds(files)?;
    Ok(())
}

/// Makes a trait, a server and a client of each service; all methods of shims are unary.
struct TtrpcGenerator;

impl ServiceGenerator for TtrpcGenerator {
    fn generate(&mut self, service: Service, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = self.write(&service, out);
    }
}

impl TtrpcGenerator {
    fn write(&self, service: &Service, out: &mut String) -> std::fmt::Result {
        let name = &service.name;
        let constant = constant_name(name);
        let full = format!("{}.{}", service.package, service.proto_name);

        writeln!(out, "/// Full name of the service.")?;
        writeln!(out, "pub const {constant}_SERVICE: &str = {full:?};")?;
        writeln!(out, "/// Names of all methods, in the order of the description.")?;
        writeln!(out, "pub const {constant}_METHODS: &[&str] = &[")?;
        for method in &service.methods {
            writeln!(out, "    {:?},", method.proto_name)?;
        }
        writeln!(out, "];")?;

        comments(&service.comments, "", out)?;
        writeln!(out, "///\n/// A method that is not written answers that it is not implemented.")?;
        writeln!(out, "pub trait {name}: Send + Sync + 'static {{")?;
        for method in &service.methods {
            let Method { name, proto_name, input_type, output_type, .. } = method;
            comments(&method.comments, "    ", out)?;
            writeln!(
                out,
                "    fn {name}(&self, context: &::api_ttrpc::Context, request: {input_type})\n        \
                 -> impl ::core::future::Future<Output = Result<{output_type}, \
                 ::api_ttrpc::Status>> + Send {{\n        \
                 let _ = (context, request);\n        \
                 ::core::future::ready(Err(not_implemented({proto_name:?})))\n    }}"
            )?;
        }
        writeln!(out, "}}")?;
        writeln!(
            out,
            "fn not_implemented(method: &str) -> ::api_ttrpc::Status {{\n    \
             ::api_ttrpc::Status::unimplemented(format!(\"method {{method}}: not implemented\"))\n}}"
        )?;

        writeln!(
            out,
            "/// Serves a [`{name}`] over ttrpc, under every name it is registered with.\n\
             #[derive(Debug)]\n\
             pub struct {name}Server<T>(::std::sync::Arc<T>);\n\
             impl<T: {name}> {name}Server<T> {{\n    \
             /// Serves `inner`.\n    \
             pub fn new(inner: T) -> Self {{\n        Self(::std::sync::Arc::new(inner))\n    }}\n    \
             /// Serves `inner`, which others use as well.\n    \
             pub fn from_arc(inner: ::std::sync::Arc<T>) -> Self {{\n        Self(inner)\n    }}\n\
             }}"
        )?;
        writeln!(out, "impl<T: {name}> ::api_ttrpc::Service for {name}Server<T> {{")?;
        writeln!(
            out,
            "    fn kind(&self, method: &str) -> Option<::api_ttrpc::MethodKind> {{\n        \
             {constant}_METHODS.contains(&method).then_some(::api_ttrpc::MethodKind::Unary)\n    }}"
        )?;
        writeln!(
            out,
            "    fn call(&self, context: ::api_ttrpc::Context, method: &str, payload: \
             ::api_ttrpc::Bytes)\n        -> ::api_ttrpc::BoxFuture<'static, Result<Vec<u8>, \
             ::api_ttrpc::Status>> {{\n        \
             let inner = ::std::sync::Arc::clone(&self.0);\n        match method {{"
        )?;
        for Method { name, proto_name, .. } in &service.methods {
            writeln!(
                out,
                "            {proto_name:?} => Box::pin(async move {{\n                \
                 let request = ::api_ttrpc::decode_request(payload)?;\n                \
                 let response = inner.{name}(&context, request).await?;\n                \
                 Ok(::prost::Message::encode_to_vec(&response))\n            }}),"
            )?;
        }
        writeln!(
            out,
            "            _ => Box::pin(::core::future::ready(Err(not_implemented(method)))),\n        \
             }}\n    }}\n}}"
        )?;

        writeln!(
            out,
            "/// Calls the service over ttrpc.\n\
             #[derive(Clone, Debug)]\n\
             pub struct {name}Client {{\n    client: ::api_ttrpc::Client,\n    service: &'static str,\n}}\n\
             impl {name}Client {{\n    \
             /// Calls [`{constant}_SERVICE`].\n    \
             pub fn new(client: ::api_ttrpc::Client) -> Self {{\n        \
             Self::with_service(client, {constant}_SERVICE)\n    }}\n    \
             /// Calls the same methods under another name.\n    \
             pub fn with_service(client: ::api_ttrpc::Client, service: &'static str) -> Self {{\n        \
             Self {{ client, service }}\n    }}\n    \
             /// The name that is called.\n    \
             pub fn service(&self) -> &'static str {{\n        self.service\n    }}\n    \
             /// The connection.\n    \
             pub fn client(&self) -> &::api_ttrpc::Client {{\n        &self.client\n    }}"
        )?;
        for method in &service.methods {
            let Method { name, proto_name, input_type, output_type, .. } = method;
            comments(&method.comments, "    ", out)?;
            writeln!(
                out,
                "    ///\n    /// # Errors\n    /// Those of [`::api_ttrpc::Client::call`].\n    \
                 pub async fn {name}(&self, options: &::api_ttrpc::CallOptions, request: \
                 &{input_type})\n        -> Result<{output_type}, ::api_ttrpc::Status> {{\n        \
                 self.client.call(self.service, {proto_name:?}, request, options).await\n    }}"
            )?;
        }
        writeln!(out, "}}")
    }
}

/// The comments of the description as documentation.
fn comments(comments: &Comments, indent: &str, out: &mut String) -> std::fmt::Result {
    for line in &comments.leading {
        writeln!(out, "{indent}///{}", line.trim_end())?;
    }
    Ok(())
}

/// `TaskService` becomes `TASK_SERVICE`.
fn constant_name(name: &str) -> String {
    let mut out = String::new();
    for (index, character) in name.chars().enumerate() {
        if index > 0 && character.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(character.to_ascii_uppercase());
    }
    out
}
