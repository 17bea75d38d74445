//! Why there is no answer: what the network, TLS or HTTP said, told apart as far as somebody can do
//! something about it.

use std::error::Error;
use std::io;

/// No answer, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing came in time.
    TimedOut,
    /// Nothing listens there.
    Refused,
    /// The other side does not speak TLS.
    NotTls,
    /// Its certificate is not to be trusted; why.
    Certificate(String),
    /// What answers is no HTTP.
    NotHttp,
    /// The connection closed early.
    Closed,
    /// Anything else, in the words of whoever found it.
    Other(String),
}

impl Trouble {
    /// Reads what lies beneath an error; `is_tls` tells whether TLS was to be spoken.
    pub fn of(error: &reqwest::Error, is_tls: bool) -> Self {
        let mut deepest = error.to_string();
        let mut found = None;
        visit(error, &mut |cause| {
            deepest = cause.to_string();
            found = found.take().or_else(|| known(cause, is_tls));
        });
        found.unwrap_or(Self::Other(deepest))
    }
}

/// Calls `see` with an error and all that lies beneath it. An I/O error hides the one that it carries.
fn visit(error: &(dyn Error + 'static), see: &mut dyn FnMut(&(dyn Error + 'static))) {
    see(error);
    let carried = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    if let Some(inner) = carried {
        visit(inner, see);
    } else if let Some(source) = error.source() {
        visit(source, see);
    }
}

fn in_words(fault: &rustls::CertificateError) -> String {
    use rustls::CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    match fault {
        Expired | ExpiredContext { .. } => "it has expired".to_owned(),
        NotValidForName | NotValidForNameContext { .. } => "it is for another name".to_owned(),
        UnknownIssuer => "nobody who is trusted here has signed it".to_owned(),
        other => {
            let told = other.to_string();
            if told.contains("CaUsedAsEndEntity") {
                "it is a self-made one".to_owned()
            } else {
                told
            }
        }
    }
}

fn known(cause: &(dyn Error + 'static), is_tls: bool) -> Option<Trouble> {
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidMessage(_) => Trouble::NotTls,
            rustls::Error::InvalidCertificate(why) => Trouble::Certificate(in_words(why)),
            other => Trouble::Other(format!("TLS: {other}")),
        });
    }
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
        return match io.kind() {
            ConnectionRefused => Some(Trouble::Refused),
            // A server without TLS takes a greeting for nonsense and hangs up.
            UnexpectedEof if is_tls => Some(Trouble::NotTls),
            ConnectionReset | BrokenPipe | UnexpectedEof => Some(Trouble::Closed),
            _ => None,
        };
    }
    let http = cause.downcast_ref::<hyper::Error>()?;
    if http.is_parse() {
        Some(Trouble::NotHttp)
    } else if http.is_incomplete_message() {
        Some(Trouble::Closed)
    } else {
        None
    }
}
