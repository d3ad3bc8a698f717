package org.edgehadanorm.demo;

import java.io.IOException;
import java.io.InputStream;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.function.Function;
import java.util.function.IntFunction;
import java.util.function.UnaryOperator;

import org.edgehadanorm.core.Benchmark;
import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.Cancelled;
import org.edgehadanorm.core.Clock;
import org.edgehadanorm.core.Generator;
import org.edgehadanorm.core.Listener;
import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.Original;
import org.edgehadanorm.core.Phase;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.PictureReader;
import org.edgehadanorm.core.Progress;
import org.edgehadanorm.core.Request;
import org.edgehadanorm.core.RunnerException;
import org.edgehadanorm.core.SelfCheck;

/**
 * All work of the app, one task at a time on one thread of its own, and the state that it is in. It belongs to the
 * process, not to the screen: turning the phone or leaving the app neither stops nor repeats anything. A task that is
 * asked for during another one is ignored; the screens do not offer it.
 */
final class Session {
    /** Who shows the states; called on the main thread. */
    interface Observer {
        void changed(State state);
    }

    /** Opens what a person picked. */
    interface Source {
        InputStream open() throws IOException;
    }

    /** Reads a picture that a person picked, cut to a size. */
    interface Pick {
        Picture read(int width, int height) throws IOException;
    }

    private interface Work {
        void run() throws BundleException, RunnerException, IOException, Cancelled;
    }

    private final BundleStore store;
    private final BundleStore.Packed packed;
    private final IntFunction<ModuleRunner.Loader> loaders;
    private final PictureReader reader;
    private final PeakMemory peak;
    private final ExecutorService worker;
    private final Executor main;
    private State state = State.FIRST;
    private Optional<Observer> observer = Optional.empty();
    private boolean begun;
    private boolean showing;
    private volatile boolean cancelled;

    /** loaders: of programs that run on so many threads, 0 for as many as the runtime likes. */
    Session(BundleStore store, BundleStore.Packed packed, IntFunction<ModuleRunner.Loader> loaders,
            PictureReader reader, PeakMemory peak, ExecutorService worker, Executor main) {
        this.store = store;
        this.packed = packed;
        this.loaders = loaders;
        this.reader = reader;
        this.peak = peak;
        this.worker = worker;
        this.main = main;
    }

    /** Shows the state now and whenever it changes, until `forget`. Both are for the main thread. */
    void observe(Observer next) {
        State now;
        synchronized (this) {
            observer = Optional.of(next);
            now = state;
        }
        next.changed(now);
    }

    synchronized void forget(Observer last) {
        observer = observer.filter(now -> now != last);
    }

    synchronized State state() {
        return state;
    }

    /** Unpacks the app's own bundle if need be and opens the chosen one; only the first call does something. */
    synchronized void begin() {
        if (begun) {
            return;
        }
        begun = true;
        start(State.Kind.IMPORTING, State.Task.OPEN, () -> {
            try {
                store.unpackOnce(packed, this::bytes);
            } finally {
                openChosen();
            }
        });
    }

    void choose(String name) {
        start(State.Kind.IMPORTING, State.Task.OPEN, () -> {
            store.choose(name);
            openChosen();
        });
    }

    /** Draws the next pictures at another of the bundle's sizes. */
    void resize(String size) {
        start(State.Kind.IMPORTING, State.Task.OPEN, () -> {
            Bundle bundle = chosen().at(size);
            update(next -> next.bundle(Optional.of(bundle)));
        });
    }

    void delete(String name) {
        start(State.Kind.IMPORTING, State.Task.OPEN, () -> {
            store.delete(name);
            openChosen();
        });
    }

    /** Adds a zipped bundle and chooses it. */
    void add(Source zip, String fileName) {
        start(State.Kind.IMPORTING, State.Task.IMPORT, () -> {
            try (InputStream in = zip.open()) {
                Bundle bundle = store.add(in, fileName, targets(), this::bytes);
                store.choose(bundle.name());
                update(next -> next.names(store.names()).bundle(Optional.of(bundle)));
            }
        });
    }

    /** Takes a picture for the next ones to begin with. */
    void beginWith(Pick pick) {
        pick(pick, picture -> Optional.of(new Original(picture, Optional.empty())));
    }

    /** Takes a mask of what is drawn anew of it. */
    void mask(Pick pick) {
        pick(pick, mask -> state().original().map(original -> original.masked(Optional.of(mask))));
    }

    /** Begins the next pictures with noise alone again. */
    void beginWithNoise() {
        update(next -> next.original(Optional.empty()));
    }

    /** Draws all of the picture to begin with anew again. */
    void unmask() {
        update(next -> next.original(state.original().map(original -> original.masked(Optional.empty()))));
    }

    private void pick(Pick pick, Function<Picture, Optional<Original>> use) {
        start(State.Kind.RUNNING, State.Task.PICK, () -> {
            Bundle bundle = chosen();
            Optional<Original> original = use.apply(pick.read(bundle.width(), bundle.height()));
            if (cancelled) {
                throw new CancellationException();
            }
            update(next -> next.original(original));
        });
    }

    void draw(Request request) {
        start(next -> next.begin(request), () -> {
            Bundle bundle = chosen();
            int all = bundle.plan(request).steps();
            drawing(drawing -> drawing.of(all));
            Picture picture = new Generator(bundle, loaders.apply(0)).generate(request, new Listener() {
                @Override
                public boolean cancelled() {
                    return cancelled;
                }

                @Override
                public void phase(Phase phase) {
                    drawing(drawing -> drawing.in(phase));
                }

                @Override
                public void step(int done, int steps, double milliseconds, Picture preview) {
                    drawing(drawing -> drawing.stepped(done, milliseconds, preview));
                }
            });
            drawing(drawing -> drawing.finished(picture));
        });
    }

    /** Draws once on so many threads and keeps how long everything took. */
    void measure(Request request, int threads) {
        start(State.Kind.RUNNING, State.Task.MEASURE, () -> {
            Bundle bundle = chosen();
            peak.reset();
            Benchmark benchmark = Benchmark.run(bundle, loaders.apply(threads), request, Clock.SYSTEM, steps());
            update(next -> next.benchmark(benchmark, peak.kibibytes(), threads));
        });
    }

    /** Draws the bundle's golden picture and compares. */
    void check() {
        start(State.Kind.RUNNING, State.Task.CHECK, () -> {
            SelfCheck.Result result = new SelfCheck(chosen().usual(), loaders.apply(0), reader).run(steps());
            update(next -> next.check(result));
        });
    }

    /** Ends the task soon: after the step, the program or the piece of a file that it is at. */
    void cancel() {
        cancelled = true;
    }

    private void start(State.Kind kind, State.Task task, Work work) {
        start(next -> next.begin(kind, task), work);
    }

    /** begin: makes the state that is shown until the worker comes to the work. */
    private synchronized void start(UnaryOperator<State.Builder> begin, Work work) {
        if (state.isBusy()) {
            return;
        }
        cancelled = false;
        update(begin);
        worker.execute(() -> finish(work));
    }

    private void finish(Work work) {
        try {
            work.run();
            update(next -> next.end(State.Kind.DONE, ""));
        } catch (Cancelled | CancellationException error) {
            update(next -> next.end(State.Kind.IDLE, ""));
        } catch (BundleException | RunnerException | IOException error) {
            fail(String.valueOf(error.getMessage()));
        } catch (OutOfMemoryError error) {
            fail("There is not enough memory: close other apps, or take a smaller bundle");
        } catch (RuntimeException error) {
            fail("Something went wrong that should not have: " + error);
        }
    }

    private void fail(String message) {
        update(next -> next.end(State.Kind.FAILED, message));
    }

    private void openChosen() throws BundleException {
        update(next -> next.names(store.names()).bundle(Optional.empty()).progress(0, -1));
        Optional<String> name = store.chosen();
        if (name.isPresent()) {
            Bundle bundle = Bundle.open(store.folder(name.get()), this::bytes);
            bundle.requireRunnable(targets());
            update(next -> next.bundle(Optional.of(bundle)));
        }
    }

    private Set<String> targets() {
        return loaders.apply(0).targets();
    }

    private Bundle chosen() throws BundleException {
        return state().bundle()
                .orElseThrow(() -> new BundleException("There is no bundle: import one, a .zip made of its folder"));
    }

    /** Counts the steps of what is drawn for its figures, not to be looked at. */
    private Listener steps() {
        return new Listener() {
            @Override
            public boolean cancelled() {
                return cancelled;
            }

            @Override
            public void phase(Phase phase) {
                // Steps are what takes the time.
            }

            @Override
            public void step(int done, int steps, double milliseconds, Picture preview) {
                progress(done, steps);
            }
        };
    }

    /** Progress through files, where a task can be cancelled too. */
    private void bytes(long done, long total) {
        if (cancelled) {
            throw new CancellationException();
        }
        progress(done, total);
    }

    private void progress(long done, long total) {
        // Bytes come by the thousand; a hundred states are enough to see.
        State now = state();
        long least = total > 0 ? total / 100 : 1 << 20;
        if (done >= now.done() + least || done < now.done() || total != now.total() || done == total) {
            update(next -> next.progress(done, total));
        }
    }

    private void drawing(UnaryOperator<Drawing> change) {
        update(next -> next.drawing(change));
    }

    private synchronized void update(UnaryOperator<State.Builder> change) {
        state = change.apply(state.next()).build();
        if (!showing) {
            showing = true;
            main.execute(this::show);
        }
    }

    /** Shows the last state; those before it that the main thread had no time for are left out. */
    private void show() {
        State now;
        Optional<Observer> who;
        synchronized (this) {
            showing = false;
            now = state;
            who = observer;
        }
        who.ifPresent(observer -> observer.changed(now));
    }
}
