//! Whether something that is due comes in every fair run.
//!
//! A run in which it never comes stays, from some state on, among the states where it is due. It either stops there or goes round for
//! ever within one strongly connected component of them. So: of the reachable states, those where it is due; of these, the
//! components (Tarjan 1972); a component is a counter-example if a run round all of it is *fair*: every actor either steps within
//! it, or has somewhere in it no step to take (weak fairness, in the sense of Lamport 1994; a component is as fair as its
//! fairest run). A state without a way on is a component, too.
//!
//! Checkers that follow single paths and forget what they have seen miss such cycles; this one is shown to find them by a planted
//! one: see the tests.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

/// A graph of states with steps between them, of which some are an actor's.
#[derive(Debug)]
pub struct Graph<S, A> {
    /// All states, in the order in which they were found.
    pub states: Vec<S>,
    /// Of each state, where its steps lead and whose they are.
    pub steps: Vec<Vec<(usize, Option<A>)>>,
    /// Of each state, from which it was found; none for the first.
    from: Vec<Option<usize>>,
}

/// A run in which what is due never comes.
#[derive(Clone, Debug)]
pub struct Lasso<S> {
    /// From the beginning to the first state of the component.
    pub stem: Vec<S>,
    /// The component's states: one of them if the run stops there.
    pub component: Vec<S>,
}

impl<S: Clone + Eq + Hash, A: Copy + Ord> Graph<S, A> {
    /// All that is reachable from `init`. `None` if there are more states than `most`: a bound that is hit is a failure.
    pub fn explore(init: S, most: usize, mut next: impl FnMut(&S) -> Vec<(S, Option<A>)>) -> Option<Self> {
        let mut graph = Self { states: vec![init.clone()], steps: Vec::new(), from: vec![None] };
        let mut known = HashMap::from([(init, 0)]);
        let mut open = VecDeque::from([0]);
        while let Some(at) = open.pop_front() {
            let mut steps = Vec::new();
            for (state, actor) in next(&graph.states[at]) {
                let to = match known.get(&state) {
                    Some(&to) => to,
                    None => {
                        let to = graph.states.len();
                        if to >= most {
                            return None;
                        }
                        known.insert(state.clone(), to);
                        graph.states.push(state);
                        graph.from.push(Some(at));
                        open.push_back(to);
                        to
                    }
                };
                steps.push((to, actor));
            }
            graph.steps.push(steps);
        }
        Some(graph)
    }

    /// A fair run after which `due` holds for ever, if there is one. `actors` are all whose steps are fair.
    pub fn find_lasso(&self, actors: &[A], due: impl Fn(&S) -> bool) -> Option<Lasso<S>> {
        let within: Vec<bool> = self.states.iter().map(due).collect();
        let component = self.components(&within).into_iter().find(|component| {
            let members: BTreeSet<usize> = component.iter().copied().collect();
            actors.iter().all(|actor| {
                let of = |at: &usize| self.steps[*at].iter().filter(|(_, by)| *by == Some(*actor));
                let steps_within = component.iter().any(|at| of(at).any(|(to, _)| members.contains(to)));
                let idle_somewhere = component.iter().any(|at| of(at).next().is_none());
                steps_within || idle_somewhere
            })
        })?;
        let first = *component.iter().min().expect("components are not empty");
        let mut stem: Vec<S> = std::iter::successors(Some(first), |at| self.from[*at])
            .map(|at| self.states[at].clone())
            .collect();
        stem.reverse();
        Some(Lasso { stem, component: component.into_iter().map(|at| self.states[at].clone()).collect() })
    }

    /// The strongly connected components of the states that are `within`: Tarjan's algorithm, with a stack of its own.
    fn components(&self, within: &[bool]) -> Vec<Vec<usize>> {
        const UNSEEN: usize = usize::MAX;
        let count = self.states.len();
        let (mut index, mut low, mut on_stack) = (vec![UNSEEN; count], vec![0; count], vec![false; count]);
        let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
        for root in (0..count).filter(|at| within[*at]) {
            if index[root] != UNSEEN {
                continue;
            }
            let mut calls = vec![(root, 0)];
            while let Some((at, step)) = calls.pop() {
                if step == 0 {
                    (index[at], low[at]) = (next, next);
                    next += 1;
                    stack.push(at);
                    on_stack[at] = true;
                } else {
                    let (child, _) = self.steps[at][step - 1];
                    if within[child] && on_stack[child] {
                        low[at] = low[at].min(low[child]);
                    }
                }
                let rest = self.steps[at].iter().enumerate().skip(step);
                let mut down = None;
                for (nth, (to, _)) in rest {
                    if !within[*to] {
                        continue;
                    }
                    if index[*to] == UNSEEN {
                        down = Some((nth, *to));
                        break;
                    }
                    if on_stack[*to] {
                        low[at] = low[at].min(index[*to]);
                    }
                }
                if let Some((nth, to)) = down {
                    calls.push((at, nth + 1));
                    calls.push((to, 0));
                } else if low[at] == index[at] {
                    let begin = stack.iter().rposition(|member| *member == at).expect("it is on the stack");
                    let component = stack.split_off(begin);
                    component.iter().for_each(|member| on_stack[*member] = false);
                    found.push(component);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of numbered states; a step is `(from, to, actor)`.
    fn graph(steps: &[(u8, u8, Option<char>)]) -> Graph<u8, char> {
        let next = |state: &u8| {
            steps.iter().filter(|(from, _, _)| from == state).map(|(_, to, by)| (*to, *by)).collect()
        };
        Graph::explore(0, 1000, next).unwrap()
    }

    #[test]
    fn a_planted_lasso_is_found() {
        // 0 -> 1 -> 2 -> 1 ... and from 2 also out to 3. Nobody is obliged to go out.
        let lasso = graph(&[(0, 1, None), (1, 2, Some('a')), (2, 1, Some('b')), (2, 3, None)]);
        let found = lasso.find_lasso(&['a', 'b'], |state| *state != 3).expect("it goes round for ever");
        assert_eq!(found.stem, [0, 1]);
        assert_eq!(BTreeSet::from_iter(found.component), BTreeSet::from([1, 2]));
    }

    #[test]
    fn a_cycle_that_an_actor_must_leave_is_none() {
        // In both states of the cycle 'c' can lead out, and never steps within.
        let steps = [(0, 1, Some('a')), (1, 0, Some('b')), (0, 2, Some('c')), (1, 2, Some('c'))];
        assert!(graph(&steps).find_lasso(&['a', 'b', 'c'], |state| *state != 2).is_none());
        // If it can do so in one state only, it may be kept from it for ever: weak fairness does not help.
        let found = graph(&steps[..3]).find_lasso(&['a', 'b', 'c'], |state| *state != 2);
        assert_eq!(found.unwrap().component.len(), 2);
    }

    #[test]
    fn a_dead_end_is_one_and_so_is_stopping_where_nobody_must_go_on() {
        assert!(graph(&[(0, 1, Some('a'))]).find_lasso(&['a'], |_| true).unwrap().component == [1]);
        assert!(graph(&[(0, 1, Some('a'))]).find_lasso(&['a'], |state| *state == 0).is_none());
        assert!(graph(&[(0, 1, None)]).find_lasso(&['a'], |state| *state == 0).is_some());
    }

    #[test]
    fn components_are_those_of_the_definition() {
        // All graphs of four states with one or two steps a state: each pair is in one component exactly if each reaches the other.
        let mut graphs = 0;
        for code in 0..10_000_u32 {
            let digit = |n: u32| (code / 10_u32.pow(n) % 10) as u8;
            let steps: Vec<_> =
                (0..4).flat_map(|n| [(n as u8, digit(n) % 4, None), (n as u8, digit(n) / 3, None)]).collect();
            let steps: Vec<(u8, u8, Option<char>)> = steps.into_iter().filter(|(_, to, _)| *to < 4).collect();
            let graph = graph(&steps);
            let count = graph.states.len();
            let mut reach = vec![vec![false; count]; count];
            for (at, steps) in graph.steps.iter().enumerate() {
                reach[at][at] = true;
                steps.iter().for_each(|(to, _)| reach[at][*to] = true);
            }
            for (k, i, j) in (0..count.pow(3)).map(|n| (n / count / count, n / count % count, n % count)) {
                reach[i][j] |= reach[i][k] && reach[k][j];
            }
            let mut together = vec![usize::MAX; count];
            for (nth, component) in graph.components(&vec![true; count]).iter().enumerate() {
                component.iter().for_each(|at| together[*at] = nth);
            }
            for (i, j) in (0..count * count).map(|n| (n / count, n % count)) {
                assert_eq!(together[i] == together[j], reach[i][j] && reach[j][i], "{steps:?}");
            }
            graphs += 1;
        }
        println!("components: {graphs} graphs");
    }
}
