//! What the headers of a call say: its namespace and its lease.

use api_grpc::{LEASE_HEADER, NAMESPACE_HEADER};
use base_ident::{IdentError, Namespace};
use store_metadata::Scope;
use tonic::{Request, Status};

use crate::convert::status;

/// The scope of a call: FailedPrecondition without a namespace, InvalidArgument with a bad one.
pub(crate) fn scope<T>(request: &Request<T>) -> Result<Scope, Status> {
    let header = |name| request.metadata().get(name).map(|value| value.to_str());
    let namespace = match header(NAMESPACE_HEADER) {
        None => return Err(status(IdentError::NamespaceMissing)),
        Some(Ok(name)) => Namespace::new(name).map_err(|error| {
            status(base_errors::Error::from(error).context("namespace validation"))
        })?,
        Some(Err(_)) => return Err(Status::invalid_argument("namespace header is not a text")),
    };
    let scope = Scope::new(namespace);
    match header(LEASE_HEADER) {
        None | Some(Ok("")) => Ok(scope),
        Some(Ok(lease)) => Ok(scope.with_lease(lease)),
        Some(Err(_)) => Err(Status::invalid_argument("lease header is not a text")),
    }
}
