package org.edgehadanorm.demo;

import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.function.UnaryOperator;

import org.edgehadanorm.core.Benchmark;
import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Original;
import org.edgehadanorm.core.Request;
import org.edgehadanorm.core.SelfCheck;

/** What the screens show, at one moment. Never changes; the next moment is another one. */
final class State {
    /** What the session is up to. */
    enum Kind { IDLE, IMPORTING, RUNNING, DONE, FAILED }

    /** What it was asked for last. */
    enum Task { NONE, OPEN, IMPORT, PICK, DRAW, MEASURE, CHECK }

    static final State FIRST = new State(new Builder());

    private final Kind kind;
    private final Task task;
    private final String message;
    private final long done;
    private final long total;
    private final List<String> names;
    private final Optional<Bundle> bundle;
    private final Optional<Original> original;
    private final Optional<Drawing> drawing;
    private final Optional<Benchmark> benchmark;
    private final Optional<SelfCheck.Result> check;
    private final long peakKibibytes;
    private final int threads;

    private State(Builder from) {
        kind = from.kind;
        task = from.task;
        message = from.message;
        done = from.done;
        total = from.total;
        names = Collections.unmodifiableList(from.names);
        bundle = from.bundle;
        original = from.original;
        drawing = from.drawing;
        benchmark = from.benchmark;
        check = from.check;
        peakKibibytes = from.peakKibibytes;
        threads = from.threads;
    }

    Kind kind() {
        return kind;
    }

    Task task() {
        return task;
    }

    boolean isBusy() {
        return kind == Kind.RUNNING || kind == Kind.IMPORTING;
    }

    /** Whether it is busy with, or has ended, this task. */
    boolean is(Kind kind, Task task) {
        return this.kind == kind && this.task == task;
    }

    /** What went wrong, in a sentence for people; empty if nothing did. */
    String message() {
        return message;
    }

    /** Bytes of an import or of a verification. */
    long done() {
        return done;
    }

    /** Bytes that there are, or -1 where nobody knows. */
    long total() {
        return total;
    }

    /** Of the bundles on the device, in order. */
    List<String> names() {
        return names;
    }

    /** The one that is chosen, verified, at the size that is chosen. */
    Optional<Bundle> bundle() {
        return bundle;
    }

    /** What the next picture begins with, cut to the size of this bundle's; nothing: noise alone. */
    Optional<Original> original() {
        return original;
    }

    /** The picture that grows or the last one. */
    Optional<Drawing> drawing() {
        return drawing;
    }

    /** The last one of this bundle. */
    Optional<Benchmark> benchmark() {
        return benchmark;
    }

    /** The last one of this bundle. */
    Optional<SelfCheck.Result> check() {
        return check;
    }

    /** Of the last benchmark; -1 where the system does not say. */
    long peakKibibytes() {
        return peakKibibytes;
    }

    /** Of the last benchmark. */
    int threads() {
        return threads;
    }

    Builder next() {
        return new Builder(this);
    }

    /** The next state. */
    static final class Builder {
        private Kind kind = Kind.IDLE;
        private Task task = Task.NONE;
        private String message = "";
        private long done;
        private long total = -1;
        private List<String> names = Collections.emptyList();
        private Optional<Bundle> bundle = Optional.empty();
        private Optional<Original> original = Optional.empty();
        private Optional<Drawing> drawing = Optional.empty();
        private Optional<Benchmark> benchmark = Optional.empty();
        private Optional<SelfCheck.Result> check = Optional.empty();
        private long peakKibibytes = -1;
        private int threads;

        private Builder() {
        }

        private Builder(State from) {
            kind = from.kind;
            task = from.task;
            message = from.message;
            done = from.done;
            total = from.total;
            names = from.names;
            bundle = from.bundle;
            original = from.original;
            drawing = from.drawing;
            benchmark = from.benchmark;
            check = from.check;
            peakKibibytes = from.peakKibibytes;
            threads = from.threads;
        }

        /** Begins a task: what the one before said goes. */
        Builder begin(Kind kind, Task task) {
            this.kind = kind;
            this.task = task;
            message = "";
            return progress(0, -1);
        }

        /** Begins a picture: no state draws without one, or with the one before. */
        Builder begin(Request request) {
            drawing = Optional.of(Drawing.of(request));
            return begin(Kind.RUNNING, Task.DRAW);
        }

        Builder end(Kind kind, String message) {
            this.kind = kind;
            this.message = message;
            return this;
        }

        Builder progress(long done, long total) {
            this.done = done;
            this.total = total;
            return this;
        }

        Builder names(List<String> names) {
            this.names = names;
            return this;
        }

        /** Another bundle or size: what was measured of the one before and cut for it goes, its picture stays. */
        Builder bundle(Optional<Bundle> bundle) {
            this.bundle = bundle;
            original = Optional.empty();
            benchmark = Optional.empty();
            check = Optional.empty();
            return this;
        }

        Builder original(Optional<Original> original) {
            this.original = original;
            return this;
        }

        /** Changes the picture that grows. */
        Builder drawing(UnaryOperator<Drawing> change) {
            drawing = drawing.map(change);
            return this;
        }

        Builder benchmark(Benchmark benchmark, long peakKibibytes, int threads) {
            this.benchmark = Optional.of(benchmark);
            this.peakKibibytes = peakKibibytes;
            this.threads = threads;
            return this;
        }

        Builder check(SelfCheck.Result check) {
            this.check = Optional.of(check);
            return this;
        }

        State build() {
            return new State(this);
        }
    }
}
