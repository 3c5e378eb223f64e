// A timer in a worker: browsers slow the timers of a page in the background down to one a second, not a worker's.
// It only wakes the page. The page itself speaks, so that a page that hangs is silent and the robot holds.
setInterval(() => postMessage(0), 50);
