//! Requests and responses as events: the columns that the host gives them.

use std::net::{IpAddr, SocketAddr};

use crate::event::{Column, ColumnType, Field, Schema, SchemaError, Value};
use crate::stream::exchange::Exchange;
use crate::stream::grpc;

/// How an exchange stands in a line of text.
const TEXT: &str = "{http.request.method} {url.full} {http.response.status_code}[ {ecapture.duration_ns}]\
                    [ {http.response.body.size} B][ grpc {ecapture.grpc.status}][: {ecapture.grpc.message}][  ({ecapture.http.notes})]";

macro_rules! columns {
    ($($id:ident $name:literal $ty:ident,)+) => {
        /// Numbers of the columns.
        #[derive(Clone, Copy)]
        enum Id { $($id),+ }
        const COLUMNS: &[(&str, ColumnType)] = &[$(($name, ColumnType::$ty)),+];
    };
}

columns! {
    Protocol "network.protocol.name" Text,
    Version "network.protocol.version" Text,
    Side "ecapture.http.side" Text,
    Method "http.request.method" Text,
    Full "url.full" Text,
    Scheme "url.scheme" Text,
    Path "url.path" Text,
    Query "url.query" Text,
    Server "server.address" Text,
    ServerPort "server.port" U64,
    Status "http.response.status_code" U64,
    Reason "ecapture.http.response.reason" Text,
    Duration "ecapture.duration_ns" Duration,
    Waited "ecapture.http.waited_ns" Duration,
    RequestSize "http.request.body.size" U64,
    ResponseSize "http.response.body.size" U64,
    Substream "ecapture.http.stream.id" Id,
    LocalAddress "network.local.address" Text,
    LocalPort "network.local.port" U64,
    PeerAddress "network.peer.address" Text,
    PeerPort "network.peer.port" U64,
    AddressSource "ecapture.tls.address_source" Text,
    RpcSystem "rpc.system" Text,
    RpcService "rpc.service" Text,
    RpcMethod "rpc.method" Text,
    RpcStatus "rpc.grpc.status_code" U64,
    GrpcStatus "ecapture.grpc.status" Text,
    GrpcMessage "ecapture.grpc.message" Text,
    Notes "ecapture.http.notes" Text,
}

/// The event `<module>.http`.
///
/// # Errors
/// The module's name is none.
pub fn schema(module: &str) -> Result<Schema, SchemaError> {
    let mut schema = Schema::new(module)?;
    let columns: Result<Vec<_>, _> = COLUMNS.iter().map(|(name, ty)| Column::new(name, *ty)).collect();
    schema.push("http", TEXT, columns?)?;
    Ok(schema)
}

/// What is known of the connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ends {
    /// Bytes are those of a TLS connection.
    pub tls: bool,
    /// This end.
    pub local: Option<(String, u16)>,
    /// The other end.
    pub peer: Option<(String, u16)>,
    /// How the addresses are known, if the module says so.
    pub source: Option<String>,
}

/// An exchange with what the columns say of it.
#[derive(Debug)]
pub struct Told<'a> {
    exchange: &'a Exchange,
    ends: &'a Ends,
    /// `https`.
    pub scheme: String,
    /// Host without the port.
    pub host: Option<String>,
    /// Port, if the request or the connection says it.
    pub port: Option<u16>,
    /// Path without the query.
    pub path: Option<String>,
    query: Option<String>,
    /// All of the address.
    pub full: Option<String>,
    notes: String,
    /// It is a call of gRPC, and has ended so.
    rpc: Option<Option<grpc::Status>>,
}

impl<'a> Told<'a> {
    /// Works out the address that was asked for.
    pub fn new(exchange: &'a Exchange, ends: &'a Ends) -> Self {
        let scheme = exchange.request.as_ref().and_then(|request| request.scheme.as_deref());
        let mut told = Self {
            exchange,
            ends,
            scheme: scheme.map_or_else(|| if ends.tls { "https" } else { "http" }.into(), lossy),
            host: None,
            port: None,
            path: None,
            query: None,
            full: None,
            notes: exchange.notes.join("; "),
            rpc: None,
        };
        let response = exchange.response.as_ref().map(|response| &response.message);
        let kinds = [exchange.request.as_ref().map(|request| &request.message), response];
        if kinds.into_iter().flatten().filter_map(|half| half.header("content-type")).any(grpc::is_grpc) {
            told.rpc = Some(response.and_then(|half| grpc::Status::of(&half.trailers, &half.headers)));
        }
        if let Some(request) = &exchange.request {
            let target = lossy(&request.target);
            let authority = request.authority.as_deref().map(lossy);
            told.address(&request.method, &target, authority);
        }
        told
    }

    fn address(&mut self, method: &[u8], target: &str, authority: Option<String>) {
        let absolute = target.split_once("://").filter(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
        let (authority, rest) = match absolute {
            // To a proxy.
            Some((scheme, rest)) if !target.starts_with('/') => {
                self.scheme = scheme.to_ascii_lowercase();
                let at = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(at);
                (Some(authority.to_owned()), if path.is_empty() { "/" } else { path })
            }
            _ if method == b"CONNECT" => (Some(target.to_owned()), ""),
            _ => (authority, target),
        };
        let server = if self.exchange.client == Some(false) { &self.ends.local } else { &self.ends.peer };
        let authority = authority.filter(|authority| !authority.is_empty());
        match &authority {
            Some(authority) => {
                let (host, port) = host_and_port(authority);
                (self.host, self.port) = (Some(host.to_owned()), port);
            }
            None => {
                self.host = server.as_ref().map(|(address, _)| address.clone());
                self.port = server.as_ref().map(|(_, port)| *port);
            }
        }
        if !rest.is_empty() {
            let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
            (self.path, self.query) = (Some(path.to_owned()), query.map(str::to_owned));
        }
        let authority = authority.or_else(|| {
            let (address, port) = server.as_ref()?;
            let address: IpAddr = address.parse().ok()?;
            Some(SocketAddr::new(address, *port).to_string())
        });
        let star = if rest.starts_with('/') || rest.is_empty() { "" } else { "/" };
        self.full = Some(match authority {
            Some(authority) if method == b"CONNECT" => authority,
            Some(authority) => format!("{}://{authority}{star}{rest}", self.scheme),
            None => rest.to_owned(),
        });
    }

    /// The columns.
    pub fn fields(&'a self) -> Vec<Field<'a>> {
        let mut fields = Vec::with_capacity(COLUMNS.len());
        let mut put = |id: Id, value: Option<Value<'a>>| {
            fields.extend(value.map(|value| Field { column: id as u16, value }));
        };
        fn text(text: &str) -> Value<'_> {
            Value::Text(text.as_bytes())
        }
        let exchange = self.exchange;
        let (request, response) = (exchange.request.as_ref(), exchange.response.as_ref());
        put(Id::Protocol, Some(text("http")));
        put(Id::Version, (!exchange.version.is_empty()).then(|| text(exchange.version)));
        put(Id::Side, exchange.client.map(|client| text(if client { "client" } else { "server" })));
        put(Id::Method, request.map(|request| Value::Text(&request.method)));
        put(Id::Full, self.full.as_deref().map(text));
        put(Id::Scheme, request.map(|_| text(&self.scheme)));
        put(Id::Path, self.path.as_deref().map(text));
        put(Id::Query, self.query.as_deref().map(text));
        put(Id::Server, self.host.as_deref().map(text));
        put(Id::ServerPort, self.port.map(|port| Value::U64(port.into())));
        put(Id::Status, response.and_then(|response| response.status).map(|status| Value::U64(status.into())));
        let reason = response.map(|response| response.reason.as_slice()).filter(|reason| !reason.is_empty());
        put(Id::Reason, reason.map(Value::Text));
        put(Id::Duration, exchange.duration_ns().map(Value::Duration));
        let waited = request.zip(response).map(|(request, response)| {
            response.message.began_ns.saturating_sub(request.message.ended_ns.max(request.message.began_ns))
        });
        put(Id::Waited, waited.map(Value::Duration));
        put(Id::RequestSize, request.map(|request| Value::U64(request.message.body.wire)));
        put(Id::ResponseSize, response.map(|response| Value::U64(response.message.body.wire)));
        put(Id::Substream, (exchange.substream != 0).then_some(Value::Id(exchange.substream)));
        let ends =
            [(&self.ends.local, Id::LocalAddress, Id::LocalPort), (&self.ends.peer, Id::PeerAddress, Id::PeerPort)];
        for (end, address, port) in ends {
            put(address, end.as_ref().map(|end| text(&end.0)));
            put(port, end.as_ref().map(|end| Value::U64(end.1.into())));
        }
        put(Id::AddressSource, self.ends.source.as_deref().map(text));
        if let Some(status) = &self.rpc {
            put(Id::RpcSystem, Some(text("grpc")));
            let call = self.path.as_deref().and_then(|path| path.strip_prefix('/')?.rsplit_once('/'));
            put(Id::RpcService, call.map(|(service, _)| text(service)));
            put(Id::RpcMethod, call.map(|(_, method)| text(method)));
            put(Id::RpcStatus, status.as_ref().map(|status| Value::U64(status.code.into())));
            put(Id::GrpcStatus, status.as_ref().and_then(grpc::Status::name).map(text));
            let message = status.as_ref().and_then(|status| status.message.as_deref());
            put(Id::GrpcMessage, message.filter(|message| !message.is_empty()).map(text));
        }
        put(Id::Notes, (!self.notes.is_empty()).then(|| text(&self.notes)));
        fields
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `example.org:8443`, `[::1]:443`, `example.org`.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
            (bare(host), port.parse().ok())
        }
        _ => (bare(authority), None),
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::exchange::Request;

    fn told(method: &str, target: &str, authority: Option<&str>, client: bool) -> (String, Vec<String>) {
        let request = Request {
            method: method.into(),
            target: target.into(),
            authority: authority.map(|a| a.as_bytes().to_vec()),
            ..Request::default()
        };
        let exchange = Exchange { client: Some(client), request: Some(request), ..Exchange::default() };
        let (local, peer) = (Some(("::1".into(), 8443)), Some(("192.0.2.7".into(), 443)));
        let ends = Ends { tls: true, local, peer, source: None };
        let told = Told::new(&exchange, &ends);
        let parts = [&told.host, &told.path, &told.query].map(|part| part.clone().unwrap_or("-".into()));
        let port = told.port.map_or("-".into(), |port| port.to_string());
        (told.full.clone().unwrap_or_default(), [&parts[..], &[port]].concat())
    }

    #[test]
    fn addresses_are_put_together() {
        let cases = [
            (("GET", "/a?b=c", Some("example.org")), "https://example.org/a?b=c", ["example.org", "/a", "b=c", "-"]),
            (("GET", "/", Some("[::1]:9")), "https://[::1]:9/", ["::1", "/", "-", "9"]),
            (("GET", "http://h:80/x", Some("other")), "http://h:80/x", ["h", "/x", "-", "80"]),
            (("CONNECT", "h:443", None), "h:443", ["h", "-", "-", "443"]),
            (("OPTIONS", "*", Some("h")), "https://h/*", ["h", "*", "-", "-"]),
            (("GET", "/n", None), "https://192.0.2.7:443/n", ["192.0.2.7", "/n", "-", "443"]),
        ];
        for ((method, target, authority), full, parts) in cases {
            assert_eq!(told(method, target, authority, true), (full.into(), parts.map(String::from).to_vec()));
        }
        assert_eq!(told("GET", "/n", None, false).0, "https://[::1]:8443/n");
    }

    #[test]
    fn a_call_of_grpc_says_what_was_called_and_how_it_ended() {
        use crate::stream::exchange::{Header, Message, Response};
        let header = |name: &str, value: &str| Header { name: Some(name.into()), value: Some(value.into()) };
        let headers = vec![header("content-type", "application/grpc+proto")];
        let request = Request {
            method: b"POST".to_vec(),
            target: b"/pkg.Service/Call".to_vec(),
            message: Message { headers: headers.clone(), ..Message::default() },
            ..Request::default()
        };
        let trailers = vec![header("grpc-status", "5"), header("grpc-message", "no%20such")];
        let message = Message { headers, trailers, ..Message::default() };
        let response = Some(Response { status: Some(200), message, ..Response::default() });
        let exchange = Exchange { request: Some(request), response, ..Exchange::default() };
        let ends = Ends::default();
        let told = Told::new(&exchange, &ends);
        let fields = told.fields();
        let value = |id: Id| fields.iter().find(|field| field.column == id as u16).map(|field| field.value);
        assert_eq!(value(Id::RpcService), Some(Value::Text(b"pkg.Service")));
        assert_eq!(value(Id::RpcMethod), Some(Value::Text(b"Call")));
        assert_eq!(value(Id::RpcStatus), Some(Value::U64(5)));
        assert_eq!(value(Id::GrpcStatus), Some(Value::Text(b"NOT_FOUND")));
        assert_eq!(value(Id::GrpcMessage), Some(Value::Text(b"no such")));
    }

    #[test]
    fn every_column_is_one_that_the_host_may_have() {
        let schema = schema("openssl").unwrap();
        assert_eq!(schema.event(0).unwrap().name(), "openssl.http");
        assert_eq!(schema.event(0).unwrap().columns().len(), Id::Notes as usize + 1);
    }
}
