//! A web page for analyses to read, whose text a test changes.

use std::sync::{Arc, Mutex, PoisonError};

use zdd_tests::rig::{Result, Rig};

/// Where the page is that analyses read, inside the balancer's namespace.
pub const PAGE: &str = "127.0.0.1:9900";

/// The page, until it is dropped.
pub struct Page {
    /// What it says, and how often it has said so.
    text: Arc<Mutex<(String, u32)>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Page {
    pub fn start(rig: &Rig, text: &str) -> Result<Page> {
        let listener = rig.in_ns("lb", || std::net::TcpListener::bind(PAGE))?.expect("the port is free");
        listener.set_nonblocking(true).expect("a plain socket option");
        let text = Arc::new(Mutex::new((text.to_owned(), 0)));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shared = text.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, shared) => {}
                }
            });
        });
        Ok(Page { text, stop: Some(stop), thread: Some(thread) })
    }

    pub fn says(&self, text: &str) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = (text.to_owned(), 0);
    }

    /// How often it was read since it says this.
    pub fn told(&self) -> u32 {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn serve(listener: std::net::TcpListener, text: Arc<Mutex<(String, u32)>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut asked = [0; 2048];
        if stream.read(&mut asked).await.is_err() {
            continue;
        }
        let body = {
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            text.1 += 1;
            text.0.clone()
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        // A caller that has gone away needs no answer.
        drop(stream.write_all((head + &body).as_bytes()).await);
    }
}
