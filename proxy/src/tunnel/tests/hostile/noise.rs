//! Datagrams that are no QUIC, or only its beginning.

use std::net::UdpSocket;

use super::{HELD, elsewhere, memory, scene, storm};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_from_everywhere_costs_others_nothing_and_leaves_nothing_behind() {
    let (network, mut victims) = scene().await;
    let before = memory();
    let address = network.address;
    let attack = tokio::task::spawn_blocking(move || {
        let sockets: Vec<_> = (0..64).map(|number| UdpSocket::bind(elsewhere(number)).unwrap()).collect();
        let mut noise = vec![0; 1500];
        for number in 0..storm() / 5 {
            getrandom::fill(&mut noise).unwrap();
            match number % 4 {
                // An Initial of QUIC version 1, random inside.
                0 => noise[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]),
                // One of a version that nobody has: an answer is asked for.
                1 => noise[..6].copy_from_slice(&[0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 8]),
                // A short header, of a connection that is none: a stateless reset.
                2 => noise[0] = 0x40 | noise[0] & 0x3f,
                _ => {}
            }
            let length = 1 + usize::from(u16::from_be_bytes([noise[1400], noise[1401]])) % noise.len();
            // Not taken by the kernel is as good as lost.
            let _ = sockets[number % sockets.len()].send_to(&noise[..length], address);
            if number % 64 == 0 {
                // Not faster than a link would bring it: what the kernel's queue drops reaches nobody.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    victims.beside(attack).await.unwrap();
    assert!(memory() < before + HELD, "{} MB more", (memory() - before) >> 20);
}
