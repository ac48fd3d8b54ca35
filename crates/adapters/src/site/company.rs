//! Requests that keep each other company: while some are being answered, those that come wait, and are answered together.
//!
//! Who comes while a lane is free takes it and asks for all that wait; its batch is as large as what came while the lanes were taken,
//! so nobody waits for company when there is none (group commit, DeWitt et al., SIGMOD 1984, applied to reads). Where the batch before
//! was larger, its callers are about to come again: others are let go first a few times. There is one lane more for each millisecond
//! that a batch takes: who is near gets large batches, who is far away is not waited for twice.
//!
//! Invariants: no more batches are begun than there are lanes. A lane is always held by somebody who runs or is about to, also when one
//! who holds it goes away: it passes to the next who waits, and whose batch went away asks anew. Of those who wait there are at
//! most as many as there are callers.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Batches that are under way at once, at most.
const MOST_LANES: u32 = 8;

/// How often others are let go first, at most.
const COURTESIES: u32 = 16;

/// Requests in a batch at most.
const MOST: usize = 64;

/// Where requests of one kind meet.
pub(super) struct Company<Q, A>(Arc<Mutex<State<Q, A>>>);

struct State<Q, A> {
    taken: u32,
    /// How long a batch takes, in microseconds: the mean, to which each new one contributes an eighth.
    took: u32,
    /// Requests in the batch before.
    last: usize,
    waiting: VecDeque<(Q, oneshot::Sender<Turn<Q, A>>)>,
}

/// What one who waited is told.
enum Turn<Q, A> {
    Answer(A),
    /// It is for them to ask.
    Lane(Lane<Q, A>),
}

/// The right to run a batch.
struct Lane<Q, A>(Option<Arc<Mutex<State<Q, A>>>>);

impl<Q, A> Default for Company<Q, A> {
    fn default() -> Self {
        Company(Arc::new(Mutex::new(State { taken: 0, took: 0, last: 1, waiting: VecDeque::new() })))
    }
}

impl<Q, A> State<Q, A> {
    fn lanes(&self) -> u32 {
        (1 + self.took / 1000).min(MOST_LANES)
    }

    fn learn(&mut self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.took = self.took - self.took / 8 + took / 8;
    }
}

impl<Q: Clone, A> Company<Q, A> {
    /// The answer to a request; `run` answers several, in their order.
    pub(super) async fn ask<F: Future<Output = Vec<A>>>(&self, request: Q, run: impl Fn(Vec<Q>) -> F) -> A {
        loop {
            let lane = match self.enter(&request) {
                Ok(lane) => lane,
                Err(coming) => match coming.await {
                    Ok(Turn::Answer(answer)) => return answer,
                    Ok(Turn::Lane(lane)) => lane,
                    // Whoever has asked for this one, too, is gone.
                    Err(_) => continue,
                },
            };
            self.gather().await;
            let (requests, others) = self.batch(request.clone());
            let began = Instant::now();
            let mut answers = run(requests).await.into_iter();
            let own = answers.next();
            self.0.lock().learn(began.elapsed());
            drop(lane);
            for (other, answer) in others.into_iter().zip(answers) {
                // Who does not wait any more needs no answer.
                let _ = other.send(Turn::Answer(answer));
            }
            if let Some(own) = own {
                return own;
            }
        }
    }

    fn enter(&self, request: &Q) -> Result<Lane<Q, A>, oneshot::Receiver<Turn<Q, A>>> {
        let mut state = self.0.lock();
        if state.taken < state.lanes() {
            state.taken += 1;
            return Ok(Lane(Some(self.0.clone())));
        }
        let (sender, coming) = oneshot::channel();
        state.waiting.push_back((request.clone(), sender));
        Err(coming)
    }

    async fn gather(&self) {
        for _ in 0..COURTESIES {
            {
                let state = self.0.lock();
                if state.waiting.len() + 1 >= state.last {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn batch(&self, first: Q) -> (Vec<Q>, Vec<oneshot::Sender<Turn<Q, A>>>) {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(MOST - 1);
        let (mut requests, mut others) = (Vec::with_capacity(count + 1), Vec::with_capacity(count));
        requests.push(first);
        for (request, sender) in state.waiting.drain(..count).filter(|(_, sender)| !sender.is_closed()) {
            requests.push(request);
            others.push(sender);
        }
        state.last = requests.len();
        (requests, others)
    }
}

impl<Q, A> Drop for Lane<Q, A> {
    fn drop(&mut self) {
        let Some(mut company) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = company.lock();
                let next = state.waiting.pop_front();
                if next.is_none() {
                    state.taken -= 1;
                }
                next
            };
            let Some((_, sender)) = next else { return };
            match sender.send(Turn::Lane(Lane(Some(company)))) {
                Ok(()) => return,
                // Gone, so it is the next one's.
                Err(Turn::Lane(mut lane)) => match lane.0.take() {
                    Some(back) => company = back,
                    None => return,
                },
                Err(Turn::Answer(_)) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use tokio::sync::Semaphore;

    /// Answers with the request and the size of its batch, when it is let.
    async fn sized(gate: &Semaphore, requests: Vec<u32>) -> Vec<(u32, usize)> {
        gate.acquire().await.expect("the gate stays").forget();
        let size = requests.len();
        requests.into_iter().map(|request| (request, size)).collect()
    }

    #[tokio::test]
    async fn who_comes_alone_does_not_wait() {
        let (company, gate) = (Company::default(), Semaphore::new(1));
        let answer = company.ask(7, |requests| sized(&gate, requests)).now_or_never();
        assert_eq!(answer, Some((7, 1)));
        assert_eq!(company.0.lock().taken, 0);
    }

    #[tokio::test]
    async fn who_comes_meanwhile_goes_together() {
        let (company, gate) = (Company::default(), Semaphore::new(0));
        let asked = (0..8).map(|n| company.ask(n, |requests| sized(&gate, requests)));
        let answering = futures::future::join_all(asked);
        let opening = async {
            tokio::task::yield_now().await;
            gate.add_permits(2);
        };
        let (answers, ()) = tokio::join!(answering, opening);
        assert_eq!(answers, [(0, 1), (1, 7), (2, 7), (3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]);
        assert_eq!(company.0.lock().taken, 0);
    }

    #[tokio::test]
    async fn those_who_go_away_hold_up_nobody() {
        let (company, gate) = (Company::default(), Semaphore::new(0));
        let ask = |n| Box::pin(company.ask(n, |requests| sized(&gate, requests)));
        let mut asked: Vec<_> = (0..6).map(ask).collect();
        for one in &mut asked {
            assert!(one.now_or_never().is_none());
        }
        // One runs, five wait. It goes, so the second leads the others; it goes as well, and so does the third, unled.
        drop(asked.drain(1..3).collect::<Vec<_>>());
        drop(asked.remove(0));
        gate.add_permits(6);
        let answers = futures::future::join_all(asked).await;
        assert_eq!(answers, [(3, 3), (4, 3), (5, 3)]);
        assert_eq!(company.0.lock().taken, 0);
    }

    #[test]
    fn who_is_far_away_has_more_lanes() {
        let mut state = State::<(), ()> { taken: 0, took: 0, last: 1, waiting: VecDeque::new() };
        for (took, lanes) in [(300, 1), (50_000, 7), (50_000, 8), (100, 8)] {
            state.learn(Duration::from_micros(took));
            assert_eq!(state.lanes(), lanes, "{took}");
        }
        (0..60).for_each(|_| state.learn(Duration::from_micros(100)));
        assert_eq!(state.lanes(), 1);
    }
}
