//! Connecting and logging in, with every method PostgreSQL asks for by password.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, ScramSha256},
};

use super::{
    PATIENCE,
    message::{Bytes, PROTOCOL_3_0, cancel_request, message, password, startup},
    reply::Reply,
    wire::{Client, Stream},
};

/// Where to connect to.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

impl Address {
    /// Connects without saying anything.
    pub fn open(&self) -> Client {
        self.try_open().expect("somebody listens")
    }

    /// Connects if somebody listens.
    pub fn try_open(&self) -> std::io::Result<Client> {
        let stream = match self {
            Self::Tcp(port) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        Ok(Client::over(stream))
    }

    /// Sends a cancel request and waits until it has been taken.
    pub fn cancel(&self, key: (u32, u32)) {
        let mut client = self.open();
        client.send(&[cancel_request(key)]);
        assert_eq!(client.reply(), Reply::Eof, "a cancel request has no answer");
    }
}

/// Who logs in, to what, and how.
#[derive(Clone)]
pub struct Login {
    user: String,
    password: String,
    parameters: Vec<(String, String)>,
}

impl Login {
    pub fn new(user: &str, database: &str) -> Self {
        let parameters = [("user", user), ("database", database)];
        Self {
            user: user.to_owned(),
            password: String::new(),
            parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }

    pub fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    /// Adds a startup parameter.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Logs in.
    ///
    /// # Errors
    /// Everything the server said, if it ends the connection instead (or nobody listens: only
    /// `EOF`).
    pub fn connect(&self, address: &Address) -> Result<Client, Vec<Reply>> {
        let client = address.try_open().map_err(|_| vec![Reply::Eof])?;
        self.over(client)
    }

    /// Begins to log in, and does not wait for an answer.
    pub fn begin(&self, address: &Address) -> Client {
        let parameters: Vec<_> =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut client = address.open();
        client.send(&[startup(PROTOCOL_3_0, &parameters)]);
        client
    }

    /// Logs in over an open connection.
    pub fn over(&self, client: Client) -> Result<Client, Vec<Reply>> {
        self.over_with_greeting(client).map(|(client, _)| client)
    }

    /// Logs in and also gives what was said up to the first `ReadyForQuery`.
    pub fn over_with_greeting(
        &self,
        mut client: Client,
    ) -> Result<(Client, Vec<Reply>), Vec<Reply>> {
        let parameters: Vec<_> =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut said = Vec::new();
        if client.try_send(&startup(PROTOCOL_3_0, &parameters)).is_err() {
            return Err(vec![Reply::Eof]);
        }
        let mut scram = ScramSha256::new(self.password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let reply = client.reply();
            said.push(reply.clone());
            match reply.tag() {
                b'R' => {
                    let Some(answer) = self.answer(&reply, &mut scram, &mut client) else {
                        continue;
                    };
                    // A server that has already refused says why in what is left to read.
                    let _ = client.try_send(&answer);
                }
                b'K' => {
                    let (pid, rest) = reply.body().split_first_chunk().expect("pid");
                    let (secret, _) = rest.split_first_chunk().expect("secret");
                    client.key = (u32::from_be_bytes(*pid), u32::from_be_bytes(*secret));
                }
                b'Z' => return Ok((client, said)),
                0 => return Err(said),
                _ => {}
            }
        }
    }

    fn answer(&self, reply: &Reply, scram: &mut ScramSha256, client: &mut Client) -> Option<Bytes> {
        let (code, rest) = reply.body().split_first_chunk().expect("R carries a code");
        match u32::from_be_bytes(*code) {
            0 => None,
            3 => {
                client.login_method = "password";
                Some(password(&self.password))
            }
            5 => {
                client.login_method = "md5";
                let salt = rest.try_into().expect("the salt has four bytes");
                let hash = md5_hash(self.user.as_bytes(), self.password.as_bytes(), salt);
                Some(password(&hash))
            }
            10 => {
                client.login_method = "scram";
                let mut offered = rest.split(|byte| *byte == 0);
                assert!(offered.any(|name| name == b"SCRAM-SHA-256"), "mechanisms: {rest:?}");
                let first = scram.message();
                let length = u32::try_from(first.len()).expect("short").to_be_bytes();
                Some(message(b'p', &[b"SCRAM-SHA-256\0", &length[..], first].concat()))
            }
            11 => {
                scram.update(rest).expect("a sound server-first-message");
                Some(message(b'p', scram.message()))
            }
            12 => {
                scram.finish(rest).expect("the server knows the password too");
                None
            }
            other => panic!("authentication request {other}"),
        }
    }
}
