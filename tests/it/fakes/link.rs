//! The network between a program and a server: passes bytes on, unless a test makes it slow, silent,
//! or lossy. It knows no protocol.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Passes,
    /// Every piece of an answer comes so much later.
    Slow(Duration),
    /// Nothing passes; connections stay open.
    Silent,
    /// Every so many pieces of answers one is lost with its connection: what was asked has arrived.
    Loses(usize),
    /// Connections break, and new ones at once.
    Down,
}

/// Where it leads.
pub enum Target {
    Port(SocketAddr),
    Socket(PathBuf),
}

/// A port of this machine that leads elsewhere.
pub struct Link {
    addr: SocketAddr,
    mood: watch::Sender<Mood>,
    lost: Arc<AtomicUsize>,
}

impl Link {
    /// Leads to `target`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn to(target: Target) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let mood = watch::Sender::new(Mood::Passes);
        let lost = Arc::new(AtomicUsize::new(0));
        let way = Way {
            mood: mood.subscribe(),
            answers: Arc::default(),
            lost: lost.clone(),
        };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let way = way.clone();
                match &target {
                    Target::Port(addr) => {
                        if let Ok(far) = TcpStream::connect(addr).await {
                            tokio::spawn(way.carry(near, far));
                        }
                    }
                    Target::Socket(path) => {
                        if let Ok(far) = UnixStream::connect(path).await {
                            tokio::spawn(way.carry(near, far));
                        }
                    }
                }
            }
        });
        Self { addr, mood, lost }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How many answers were lost so far.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Way {
    mood: watch::Receiver<Mood>,
    answers: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

impl Way {
    /// Both directions, until either ends or the network is down; both sockets close then.
    async fn carry(mut self, near: TcpStream, far: impl AsyncRead + AsyncWrite) {
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = tokio::io::split(far);
        let (there, back) = (self.clone(), self.clone());
        tokio::select! {
            () = there.questions(near_in, far_out) => {}
            () = back.answers(far_in, near_out) => {}
            _ = self.mood.wait_for(|mood| *mood == Mood::Down) => {}
        }
    }

    async fn questions(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = from.read(&mut piece).await {
            self.speaks().await;
            if to.write_all(&piece[..bytes]).await.is_err() {
                return;
            }
        }
    }

    async fn answers(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = from.read(&mut piece).await {
            let mood = self.speaks().await;
            match mood {
                Mood::Slow(delay) => tokio::time::sleep(delay).await,
                Mood::Loses(every) => {
                    let answer = self.answers.fetch_add(1, Ordering::Relaxed);
                    if answer % every == every - 1 {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                Mood::Passes | Mood::Silent | Mood::Down => {}
            }
            if to.write_all(&piece[..bytes]).await.is_err() {
                return;
            }
        }
    }

    /// The mood, once it is not silence.
    async fn speaks(&mut self) -> Mood {
        match self.mood.wait_for(|mood| *mood != Mood::Silent).await {
            Ok(mood) => *mood,
            Err(_) => Mood::Down,
        }
    }
}
