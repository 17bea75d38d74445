//! A stretch of wire in front of a Postgres server, which can be cut and go mute.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

pub struct Proxy {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    /// And the messages seen since it was made, or since the last cut.
    plan: Mutex<Option<(Plan, u32)>>,
    cuts: AtomicU64,
    /// Connections made so far, and those of them up to which none carries a byte any more.
    made: AtomicU64,
    mute_up_to: watch::Sender<u64>,
}

/// Where to cut.
#[derive(Clone, Copy)]
pub struct Plan {
    /// The message of the client, of all connections, from 1.
    pub at: u32,
    pub fate: Fate,
    /// How often, each time counted anew.
    pub times: u32,
}

/// What becomes of a message, and of its connection.
#[derive(Clone, Copy)]
pub enum Fate {
    Passes,
    /// The connection breaks before it arrives.
    Lost,
    /// It reaches the server, whose answer is lost with the connection.
    Unanswered,
    /// Nothing goes on, and nothing breaks.
    Stuck,
}

impl Proxy {
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            socket,
            plan: Mutex::default(),
            cuts: AtomicU64::new(0),
            made: AtomicU64::new(0),
            mute_up_to: watch::Sender::new(0),
        });
        let accepting = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = accepting.made.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(accepting.clone().carry(client, number));
            }
        });
        Self { addr, shared }
    }

    /// A URL of the server through here.
    pub fn url(&self, direct: &str) -> String {
        let (before, _) = direct.split_once("?host=").expect("a URL of the socket");
        before.replacen("@localhost/", &format!("@{}/", self.addr), 1)
    }

    pub fn cut(&self, plan: Plan) {
        self.shared.cuts.store(0, Ordering::SeqCst);
        *self.shared.plan.lock().expect("the plan") = Some((plan, 0));
    }

    /// No more cuts; how often it was cut.
    pub fn heal(&self) -> u64 {
        *self.shared.plan.lock().expect("the plan") = None;
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Connections that were made so far carry nothing any more, without a sign.
    pub fn mute_old(&self) {
        let made = self.shared.made.load(Ordering::SeqCst);
        self.shared.mute_up_to.send_replace(made);
    }

    /// Nor do those that are made from now on, until [`Proxy::speak`].
    pub fn mute(&self) {
        self.shared.mute_up_to.send_replace(u64::MAX);
    }

    /// New connections work.
    pub fn speak(&self) {
        self.mute_old();
    }
}

impl Shared {
    async fn carry(self: Arc<Self>, mut client: TcpStream, number: u64) {
        let mut mute = self.mute_up_to.subscribe();
        let Ok(mut server) = UnixStream::connect(&self.socket).await else {
            return;
        };
        // The watch's sender lives as long as this.
        let muted = async { mute.wait_for(|up_to| number <= *up_to).await.is_ok() };
        tokio::select! {
            () = self.copy(&mut client, &mut server) => {}
            is_muted = muted => if is_muted {
                // Both ends stay open.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn copy(&self, client: &mut TcpStream, server: &mut UnixStream) {
        let (mut asked, mut answered) = ([0; 16_384], [0; 16_384]);
        loop {
            let done = tokio::select! {
                count = client.read(&mut asked) => match count {
                    Ok(count) if count > 0 => match self.judge() {
                        Fate::Passes => server.write_all(&asked[..count]).await.is_err(),
                        Fate::Lost => true,
                        Fate::Stuck => std::future::pending().await,
                        Fate::Unanswered => {
                            let _ = server.write_all(&asked[..count]).await;
                            // It has taken it to heart once it answers.
                            let _ = server.read(&mut answered).await;
                            true
                        }
                    },
                    _ => true,
                },
                count = server.read(&mut answered) => match count {
                    Ok(count) if count > 0 => client.write_all(&answered[..count]).await.is_err(),
                    _ => true,
                },
            };
            if done {
                return;
            }
        }
    }

    fn judge(&self) -> Fate {
        let mut plan = self.plan.lock().expect("the plan");
        let Some((now, seen)) = plan.as_mut() else {
            return Fate::Passes;
        };
        *seen += 1;
        if *seen < now.at {
            return Fate::Passes;
        }
        *seen = 0;
        let fate = now.fate;
        let cuts = self.cuts.fetch_add(1, Ordering::SeqCst) + 1;
        if cuts == u64::from(now.times) {
            *plan = None;
        }
        fate
    }
}
