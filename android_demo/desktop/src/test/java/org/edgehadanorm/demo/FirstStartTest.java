package org.edgehadanorm.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import org.edgehadanorm.core.Request;
import org.edgehadanorm.desktop.Case;
import org.edgehadanorm.desktop.Digest;
import org.edgehadanorm.desktop.Png;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** All of the app but its screens, on its own thread, from the bundle that a build brings to the picture. */
public final class FirstStartTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private final List<State> states = Collections.synchronizedList(new ArrayList<>());
    private Session session;
    private Case one;

    @Before
    public void start() throws Exception {
        one = Case.named("hadanorm-w4a8 1");
        session = new Session(new BundleStore(folder.getRoot()), new Asset(),
                threads -> ExecuTorchRunner.loader(threads, () -> 1L << 30), Png::read, new PeakMemory(),
                worker, Runnable::run);
        session.observe(states::add);
        session.begin();
        after(State.Task.OPEN);
        assertEquals(BundleStore.REFERENCE, session.state().bundle().get().name());
    }

    @After
    public void stop() {
        worker.shutdown();
    }

    @Test
    public void thePictureOfTheBundleInTheAppIsPythons() throws Exception {
        Request request = one.request();
        session.draw(request);
        Drawing drawing = after(State.Task.DRAW).drawing().get();
        assertTrue(drawing.isFinished());
        assertEquals(one.pixels(), Digest.of(drawing.picture().get()));
        List<Integer> seen = states.stream().flatMap(state -> state.drawing().map(now -> now.done())
                .map(Collections::singletonList).orElse(Collections.emptyList()).stream()).distinct()
                .collect(Collectors.toList());
        int steps = one.bundle().plan(request.plan()).steps();
        assertEquals(IntStream.rangeClosed(0, steps).boxed().collect(Collectors.toList()), seen);
    }

    @Test
    public void itChecksItselfAndMeasuresItself() throws Exception {
        session.check();
        assertTrue(after(State.Task.CHECK).check().get().passed());
        session.measure(one.request(), 2);
        State measured = after(State.Task.MEASURE);
        assertTrue(measured.benchmark().get().medianStep() > 0);
        assertTrue(measured.peakKibibytes() > 1 << 10);
    }

    @Test
    public void whatCannotBeDrawnIsSaid() throws Exception {
        session.draw(new Request("xylophone zebra", "", 0, "4", 1.5));
        worker.submit(() -> { }).get();
        assertTrue(session.state().message(), session.state().is(State.Kind.FAILED, State.Task.DRAW));
        assertTrue(session.state().message(), session.state().message().contains("zebra"));
    }

    /** The state after a task, which went well. */
    private State after(State.Task task) throws Exception {
        worker.submit(() -> { }).get();
        State state = session.state();
        assertTrue(state.message(), state.is(State.Kind.DONE, task));
        return state;
    }

    /** An installation with the bundle that the property `asset` names. */
    private static final class Asset implements BundleStore.Packed {
        @Override
        public String version() {
            return "1";
        }

        @Override
        public Optional<InputStream> open() throws IOException {
            return Optional.of(new FileInputStream(new File(System.getProperty("asset"))));
        }
    }
}
