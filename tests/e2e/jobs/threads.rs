// Threads, channels and child processes of the Rust library. Usage: threads ROUNDS
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{mpsc, Arc, Barrier, Mutex};

fn mix(mut x: u64, n: u32) -> u64 {
    for _ in 0..n {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        x ^= x >> 29;
    }
    x
}

fn child(x: u64) -> String {
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for i in 0..2000 {
            writeln!(input, "{}", x.wrapping_add(i)).unwrap();
        }
    });
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    format!("{} {}", child.wait().unwrap().code().unwrap(), &text[..8])
}

fn main() {
    let rounds: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    for round in 0..rounds {
        let (send, receive) = mpsc::channel();
        let barrier = Arc::new(Barrier::new(6));
        let total = Arc::new(Mutex::new(0u64));
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let (send, barrier, total) = (send.clone(), barrier.clone(), total.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    let x = mix(round * 6 + n, 3_000_000);
                    *total.lock().unwrap() ^= x;
                    send.send((n, x)).unwrap();
                })
            })
            .collect();
        drop(send);
        let mut got: Vec<_> = receive.iter().collect();
        got.sort();
        threads.into_iter().for_each(|t| t.join().unwrap());
        println!("{} {:x} {:x} {}", round, got[0].1, *total.lock().unwrap(), child(got[5].1));
    }
}
