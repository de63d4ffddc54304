//! Mail, over SMTP.

use super::{Failure, is_private, words};
use crate::service::alerts::outbox::Told;
use crate::service::outbound::Guard;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use nm_types::DeliveryId;
use nm_types::alert::channel::{MailAddress, MailTls};
use std::time::Duration;

/// For the whole of one attempt. Mail servers greet strangers slowly, to see who does not wait.
const DEADLINE: Duration = Duration::from_secs(20);

pub(super) struct Server<'a> {
    pub host: &'a str,
    pub port: u16,
    pub tls: MailTls,
    /// Username and password.
    pub login: Option<(&'a str, &'a str)>,
}

fn mailbox(address: &MailAddress) -> Result<Mailbox, Failure> {
    let address = address
        .as_str()
        .parse::<Address>()
        .map_err(|_| Failure::last(format!("`{address}` is no mail address that can be written to")))?;
    Ok(Mailbox::new(None, address))
}

/// The mail that tells it. Mails of one alert hang together.
pub(super) fn letter(from: &MailAddress, to: &[MailAddress], delivery: &DeliveryId, told: &Told) -> Result<Message, Failure> {
    let domain = from.as_str().rsplit_once('@').map_or("neuralmesh", |(_, domain)| domain);
    let thread = format!("<{}@{domain}>", told.alert.id);
    let mut letter = Message::builder()
        .from(mailbox(from)?)
        .subject(words::headline(told))
        .date_now()
        .message_id(Some(format!("<{delivery}@{domain}>")))
        .in_reply_to(thread.clone())
        .references(thread);
    for address in to {
        letter = letter.to(mailbox(address)?);
    }
    // Nobody's holiday notice shall answer it: RFC 3834.
    for (name, value) in [("Auto-Submitted", "auto-generated"), ("X-NeuralMesh-Delivery", delivery.as_str())] {
        if let Ok(name) = HeaderName::new_from_ascii(name.to_owned()) {
            letter = letter.raw_header(HeaderValue::new(name, value.to_owned()));
        }
    }
    letter
        .header(ContentType::TEXT_PLAIN)
        .body(words::letter(told))
        .map_err(|e| Failure::last(format!("the mail could not be written: {e}")))
}

pub(super) async fn send(guard: &Guard, server: &Server<'_>, letter: Message) -> Result<String, Failure> {
    match tokio::time::timeout(DEADLINE, attempt(guard, server, letter)).await {
        Ok(sent) => sent,
        Err(_) => Err(Failure::new(format!(
            "the mail server did not answer within {} seconds",
            DEADLINE.as_secs()
        ))),
    }
}

async fn attempt(guard: &Guard, server: &Server<'_>, letter: Message) -> Result<String, Failure> {
    let address = guard.resolve(server.host, server.port).await.map_err(|e| Failure::new(e.message))?;
    let tls = || {
        // The certificate is held to the name, though the address is what is connected to.
        TlsParameters::builder(server.host.to_owned())
            .certificate_store(CertificateStore::WebpkiRoots)
            .build_rustls()
            .map_err(|e| Failure::new(format!("TLS could not be set up: {e}")))
    };
    let tls = match server.tls {
        MailTls::Starttls => Tls::Required(tls()?),
        MailTls::Tls => Tls::Wrapper(tls()?),
        MailTls::None if is_private(address.ip()) => Tls::None,
        MailTls::None => {
            return Err(Failure::new(
                "mail is sent unencrypted within private networks only: use starttls or tls",
            ));
        }
    };
    let me = letter.envelope().from().map_or("localhost", |a| a.domain()).to_owned();
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
        .port(server.port)
        .tls(tls)
        .hello_name(ClientId::Domain(me))
        .timeout(Some(DEADLINE));
    if let Some((username, password)) = server.login {
        transport = transport.credentials(Credentials::new(username.to_owned(), password.to_owned()));
    }
    match transport.build().send(letter).await {
        Ok(answer) => Ok(format!("the mail server answered {}", answer.code())),
        Err(error) => Err(Failure::new(explain(&error, server))),
    }
}

fn explain(error: &lettre::transport::smtp::Error, server: &Server<'_>) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let mut said: String = cause
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    // Servers quote what they were sent.
    if let Some((_, password)) = server.login {
        said = said.replace(password, "…");
    }
    match error.status() {
        Some(code) => format!("the mail server refused it with {code}: {said}"),
        None if error.is_timeout() => "the mail server did not answer in time".into(),
        None => format!("the mail server could not be used: {said}"),
    }
}
