//! Requests that keep each other company: while some are being answered, those that come wait, and are answered together.
//!
//! Who comes while a lane is free takes it and asks for all that wait; its batch is as large as what came while the lanes were taken,
//! so nobody waits for company when there is none (group commit, DeWitt et al., SIGMOD 1984, applied to reads).
//!
//! Invariants: at most [`LANES`] batches are under way. A lane is always held by somebody who runs or is about to, also when one who
//! holds it goes away: it passes to the next who waits, and whose batch went away asks anew. Of those who wait there are at most as
//! many as there are callers.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Batches that are under way at once.
const LANES: usize = 2;

/// Requests in a batch at most.
const MOST: usize = 64;

/// Where requests of one kind meet.
pub(super) struct Company<Q, A>(Arc<Mutex<State<Q, A>>>);

struct State<Q, A> {
    taken: usize,
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
        Company(Arc::new(Mutex::new(State { taken: 0, waiting: VecDeque::new() })))
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
            let (requests, others) = self.batch(request.clone());
            let mut answers = run(requests).await.into_iter();
            let own = answers.next();
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
        if state.taken < LANES {
            state.taken += 1;
            return Ok(Lane(Some(self.0.clone())));
        }
        let (sender, coming) = oneshot::channel();
        state.waiting.push_back((request.clone(), sender));
        Err(coming)
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
            // The first is answered alone; whom it passes its lane to takes all others along.
            gate.add_permits(1);
            while company.0.lock().waiting.len() > 0 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(2);
        };
        let (answers, ()) = tokio::join!(answering, opening);
        assert_eq!(answers.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!(answers.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [1, 1, 6, 6, 6, 6, 6, 6]);
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
        // Two run, four wait. One that runs goes, so the third leads the others; it goes as well, and so does the fourth, unled.
        drop(asked.drain(2..4).collect::<Vec<_>>());
        drop(asked.remove(0));
        gate.add_permits(6);
        let answers = futures::future::join_all(asked).await;
        assert_eq!(answers.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(company.0.lock().taken, 0);
    }
}
