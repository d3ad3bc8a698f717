package org.edgehadanorm.demo;

import java.util.ArrayDeque;
import java.util.Collections;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.AbstractExecutorService;
import java.util.concurrent.TimeUnit;

/** Runs what it is given at once, or, where it is slow, when it is told to. */
final class Worker extends AbstractExecutorService {
    private final Queue<Runnable> waiting = new ArrayDeque<>();
    private final boolean slow;

    private Worker(boolean slow) {
        this.slow = slow;
    }

    static Worker prompt() {
        return new Worker(false);
    }

    /** Has not begun with anything when a call returns. */
    static Worker slow() {
        return new Worker(true);
    }

    @Override
    public void execute(Runnable task) {
        waiting.add(task);
        if (!slow) {
            work();
        }
    }

    /** Runs all that waits. */
    void work() {
        for (Runnable task = waiting.poll(); task != null; task = waiting.poll()) {
            task.run();
        }
    }

    @Override
    public void shutdown() {
        // It has no thread.
    }

    @Override
    public List<Runnable> shutdownNow() {
        return Collections.emptyList();
    }

    @Override
    public boolean isShutdown() {
        return false;
    }

    @Override
    public boolean isTerminated() {
        return false;
    }

    @Override
    public boolean awaitTermination(long timeout, TimeUnit unit) {
        return true;
    }
}
