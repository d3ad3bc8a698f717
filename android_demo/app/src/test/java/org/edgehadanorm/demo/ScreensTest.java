package org.edgehadanorm.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;

import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Request;
import org.edgehadanorm.core.RunnerException;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** What the screens have in every state that a session publishes, also before its worker has begun with a task. */
public final class ScreensTest {
    private static final Request CAT = new Request("cat", "", 7, "2", 1.5);
    private static final Request DOG = new Request("dog", "", 7, "2", 1.5);
    private static final Request UNKNOWN = new Request("unicorn", "", 7, "2", 1.5);

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();
    private final Locale locale = Locale.getDefault();
    private final List<State> states = new ArrayList<>();
    private final Worker worker = Worker.slow();
    private TinyBundle.Before before = method -> { };
    private Session session;

    @Before
    public void start() {
        Locale.setDefault(Locale.ENGLISH);
        session = new Session(new BundleStore(folder.getRoot()), new NoAsset(),
                threads -> TinyBundle.loader(method -> before.run(method)), file -> new Picture(2, 2, new int[4]),
                new PeakMemory(folder.getRoot()), worker, Runnable::run);
        session.observe(states::add);
    }

    @After
    public void speakAsBefore() {
        Locale.setDefault(locale);
    }

    @Test
    public void theWalkComesByEveryEndOfEveryTask() {
        walk();
        Set<String> expected = new TreeSet<>(Collections.singleton("IDLE NONE"));
        for (State.Task task : State.Task.values()) {
            boolean files = task == State.Task.OPEN || task == State.Task.IMPORT;
            for (State.Kind kind : State.Kind.values()) {
                boolean other = kind == (files ? State.Kind.RUNNING : State.Kind.IMPORTING);
                if (task != State.Task.NONE && !other) {
                    expected.add(kind + " " + task);
                }
            }
        }
        Set<String> seen = new TreeSet<>();
        for (State state : states) {
            seen.add(state.kind() + " " + state.task());
        }
        assertEquals(expected, seen);
    }

    @Test
    public void whileATaskRunsTheScreenThatAskedHasABarWithWordsAndNoScreenBegins() {
        walk();
        for (State state : states) {
            GenerateContent generate = new GenerateContent(state);
            BenchmarkContent benchmark = new BenchmarkContent(state);
            BundlesContent bundles = new BundlesContent(state);
            boolean busy = state.isBusy();
            boolean draws = busy && state.task() == State.Task.DRAW;
            boolean measures = busy && state.task() == State.Task.MEASURE;
            boolean picks = busy && state.task() == State.Task.PICK;
            String now = name(state);
            assertEquals(now, draws, generate.isDrawing());
            assertEquals(now, draws || picks, generate.bar().isPresent());
            assertEquals(now, measures, benchmark.isMeasuring());
            assertEquals(now, measures, benchmark.bar().isPresent());
            assertEquals(now, busy && !draws && !measures && !picks, bundles.bar().isPresent());
            assertTrue(now, !(draws || picks) || isSaid(generate.status()));
            assertEquals(now, measures, isSaid(benchmark.status()));
            assertEquals(now, bundles.bar().isPresent(), isSaid(bundles.status()));
            for (Optional<Bar> bar : Arrays.asList(generate.bar(), benchmark.bar(), bundles.bar())) {
                assertTrue(now, bar.map(some -> 0 <= some.done() && some.done() <= some.all()).orElse(true));
            }
            assertEquals(now, !busy, bundles.canChange());
            assertEquals(now, !busy && state.bundle().isPresent(), new OriginalContent(state).canChange());
            assertEquals(now, !busy && state.bundle().isPresent(), generate.canGenerate());
            assertEquals(now, !busy && state.bundle().isPresent(), benchmark.canMeasure());
            assertEquals(now, busy, new FrameContent(state).keepsScreenOn());
        }
    }

    @Test
    public void onlyAFinishedPictureIsSavedOrSharedAndNotWhileAnotherIsDrawn() {
        walk();
        int finished = 0;
        for (State state : states) {
            GenerateContent generate = new GenerateContent(state);
            assertFalse(name(state), generate.isDrawing() && generate.finished().isPresent());
            if (generate.finished().isPresent()) {
                finished++;
                assertTrue(name(state), generate.finished().get().picture().isPresent());
                assertEquals(name(state), generate.picture(), generate.finished().get().picture());
                said(generate.description().get(), R.string.picture_of, "cat");
                assertTrue(name(state), state.isBusy() || generate.status().id() == R.string.finished);
            }
        }
        assertTrue(finished > 0);
    }

    @Test
    public void whatWentWrongIsSaidUntilSomethingElseBegins() {
        walk();
        for (State state : states) {
            String problem = new FrameContent(state).problem();
            assertEquals(name(state), state.kind() == State.Kind.FAILED, !problem.isEmpty());
        }
    }

    @Test
    public void tablesAreThereWithWhatTheyAreOf() {
        walk();
        int verdicts = 0;
        for (State state : states) {
            BundlesContent bundles = new BundlesContent(state);
            assertEquals(name(state), bundles.bundle().isPresent(), !bundles.facts().isEmpty());
            assertEquals(name(state), bundles.check().isPresent(), isSaid(bundles.verdict()));
            assertFalse(name(state), bundles.saysNone() && bundles.bundle().isPresent());
            BenchmarkContent benchmark = new BenchmarkContent(state);
            assertEquals(name(state), benchmark.results().isPresent(), !benchmark.facts().isEmpty());
            verdicts += bundles.check().isPresent() ? 1 : 0;
        }
        assertTrue(verdicts > 0);
    }

    @Test
    public void aPictureBeginsWithNothingToSeeBeforeTheWorkerDoes() {
        add(TinyBundle.ofBytes(1));
        session.draw(CAT);
        assertNothingOf("cat");
        worker.work();
        GenerateContent after = new GenerateContent(last());
        assertTrue(after.canGenerate());
        assertTrue(after.finished().isPresent());
        session.draw(DOG);
        assertNothingOf("dog");
    }

    @Test
    public void aPictureThatEndsBeforeTheWorkerBeginsIsStopped() {
        add(TinyBundle.ofBytes(1));
        session.draw(CAT);
        session.cancel();
        worker.work();
        GenerateContent after = new GenerateContent(last());
        said(after.status(), R.string.stopped);
        said(after.description().get(), R.string.picture_growing, "cat");
        assertFalse(isSaid(after.figures()));
        assertFalse(after.picture().isPresent());
        assertFalse(after.finished().isPresent());
    }

    @Test
    public void aPictureSaysWhatItIsAt() {
        add(TinyBundle.ofBytes(1));
        states.clear();
        session.draw(CAT);
        worker.work();
        Set<Integer> words = new LinkedHashSet<>();
        List<String> figures = new ArrayList<>();
        for (State state : states) {
            GenerateContent now = new GenerateContent(state);
            words.add(now.status().id());
            if (now.isDrawing() && isSaid(now.figures())) {
                assertEquals(R.string.step_figures, now.figures().id());
                assertTrue(now.bar().get().isKnown());
                figures.add(now.figures().values()[0] + " of " + now.figures().values()[1]);
                assertEquals(now.figures().values()[0], now.bar().get().done());
            }
        }
        assertEquals(Arrays.asList(R.string.phase_encode, R.string.phase_prepare, R.string.phase_denoise,
                R.string.finished), new ArrayList<>(words));
        assertEquals(Arrays.asList("1 of 2", "2 of 2"), new ArrayList<>(new LinkedHashSet<>(figures)));
        assertEquals(R.string.finished_figures, new GenerateContent(last()).figures().id());
    }

    @Test
    public void aBenchmarkAndACheckCountTheirSteps() {
        add(TinyBundle.withGolden());
        for (Runnable task : Arrays.<Runnable>asList(() -> session.measure(CAT, 1), session::check)) {
            states.clear();
            task.run();
            worker.work();
            List<String> steps = new ArrayList<>();
            for (State state : states) {
                Phrase words = state.task() == State.Task.MEASURE
                        ? new BenchmarkContent(state).status() : new BundlesContent(state).status();
                if (isSaid(words)) {
                    steps.add(words.id() == R.string.measuring ? Arrays.toString(words.values()) : "loads");
                }
            }
            assertEquals(Arrays.asList("loads", "[1, 2]", "[2, 2]"), new ArrayList<>(new LinkedHashSet<>(steps)));
        }
        said(new BundlesContent(last()).verdict(), R.string.check_failed,
                Format.decibels(last().check().get().psnrDb()), "40.0 dB");
    }

    @Test
    public void theLineNamesTheBundleOrSaysWhatToDo() {
        said(new FrameContent(State.FIRST).line(), R.string.no_bundle);
        session.begin();
        said(new FrameContent(last()).line(), R.string.opening);
        worker.work();
        said(new FrameContent(last()).line(), R.string.no_bundle);
        assertTrue(new BundlesContent(last()).saysNone());
        add(TinyBundle.ofBytes(1));
        said(new FrameContent(last()).line(), R.string.bundle_line, "tiny", "none");
        assertFalse(new BundlesContent(last()).hasCheck());
    }

    @Test
    public void theFieldOfTheNegativePromptSaysWhyItCannotBeUsed() {
        add(TinyBundle.ofBytes(1));
        takesNegative("2", "1.5", R.string.negative);
        takesNegative("2", "", R.string.negative);
        takesNegative("2", "1", R.string.negative_of_no_guidance);
        takesNegative("2", "0.5", R.string.negative_of_no_guidance);
        takesNegative("made for 3", "1", R.string.negative);
        takesNegative("without", "1", R.string.negative_of_no_steps);
        takesNegative("without", "7", R.string.negative_of_no_steps);
    }

    @Test
    public void aSizeIsAskedForWhereThereAreSeveral() {
        assertFalse(new SizeContent(State.FIRST).asks());
        assertFalse(new SizeContent(State.FIRST).other(0).isPresent());
        add(TinyBundle.ofBytes(1));
        assertFalse(new SizeContent(last()).asks());
        add(TinyBundle.withSizes());
        SizeContent sizes = new SizeContent(last());
        assertTrue(sizes.asks());
        assertEquals(Arrays.asList("2 × 2", "1 × 2"), sizes.choices());
        assertEquals("2 × 2", sizes.chosen());
        assertEquals(Optional.empty(), sizes.other(0));
        assertEquals(Optional.of("1x2"), sizes.other(1));
        assertEquals(Optional.empty(), sizes.other(2));
        session.resize("1x2");
        assertFalse(new SizeContent(last()).canChange());
        worker.work();
        assertTrue(new SizeContent(last()).canChange());
        assertEquals("1 × 2", new SizeContent(last()).chosen());
        assertEquals(Optional.of("2x2"), new SizeContent(last()).other(0));
        assertEquals("2", BenchmarkContent.request(last().bundle().get(), Optional.of("made for 3")).plan());
    }

    @Test
    public void stepsThatWereMadeForOneGuidanceHaveNoOther() {
        add(TinyBundle.ofBytes(1));
        assertEquals(Optional.of("3.0"), form("made for 3", "1.5").guidance());
        assertEquals(Optional.empty(), form("2", "1.5").guidance());
        run(() -> session.draw(new Request("cat", "dog", 7, "made for 3", 1.5)));
        assertEquals("guidance is 1.5, and these steps were made for 3.0 alone; take that", last().message());
        assertFalse(new GenerateContent(last()).finished().isPresent());
    }

    @Test
    public void aBenchmarkDrawsTheGoldenSampleWithTheChosenSteps() {
        add(TinyBundle.ofBytes(1));
        measured("2", "cat dog 0 2 1.5");
        add(TinyBundle.withGolden());
        measured("2", "dog  1 2 1.5");
        measured("made for 3", "dog  1 made for 3 3.0");
        Request usual = BenchmarkContent.request(last().bundle().get(), Optional.empty());
        assertEquals("2", usual.plan());
        run(() -> session.measure(BenchmarkContent.request(last().bundle().get(), Optional.of("made for 3")), 1));
        assertTrue(last().message(), last().is(State.Kind.DONE, State.Task.MEASURE));
        assertEquals(4, last().benchmark().get().predictions());
    }

    /** Every task to every end that it can have. */
    private void walk() {
        run(session::begin);
        run(() -> session.draw(CAT));  // without a bundle
        run(() -> session.add(() -> new ByteArrayInputStream(new byte[3]), "bad.zip"));
        cancelled(() -> session.add(() -> TinyBundle.ofBytes(1 << 20).zip(), "tiny.zip"));
        add(TinyBundle.withGolden());
        cancelled(() -> session.choose("tiny"));
        run(() -> session.choose("tiny"));
        for (Runnable task : Arrays.<Runnable>asList(() -> session.draw(CAT), () -> session.measure(CAT, 1),
                session::check)) {
            cancelled(task);
            run(task);
            before = method -> {
                throw new RunnerException("the runtime is too old");
            };
            run(task);
            before = method -> { };
        }
        run(() -> session.beginWith((width, height) -> new Picture(2, 2, new int[4])));
        cancelled(() -> session.mask((width, height) -> new Picture(2, 2, new int[4])));
        run(() -> session.mask((width, height) -> {
            throw new IOException("no picture");
        }));
        run(() -> session.draw(UNKNOWN));
        run(() -> session.draw(CAT));
        assertTrue(new File(folder.getRoot(), "bundles/tiny/denoiser.pte").delete());
        run(() -> session.choose("tiny"));
        run(() -> session.delete("tiny"));
    }

    private void run(Runnable task) {
        task.run();
        worker.work();
    }

    /** Before the worker begins. */
    private void cancelled(Runnable task) {
        task.run();
        session.cancel();
        worker.work();
    }

    private void add(TinyBundle bundle) {
        run(() -> session.add(bundle::zip, "tiny.zip"));
    }

    private FormContent form(String plan, String guidance) {
        return new FormContent(last().bundle().get().plans().get(plan), guidance);
    }

    private void takesNegative(String plan, String guidance, int label) {
        said(form(plan, guidance).negativeLabel(), label);
        assertEquals(label == R.string.negative, form(plan, guidance).takesNegative());
    }

    private void measured(String plan, String expected) {
        Request request = BenchmarkContent.request(last().bundle().get(), Optional.of(plan));
        assertEquals(expected, request.prompt() + " " + request.negative() + " " + request.seed() + " "
                + request.plan() + " " + request.guidance());
    }

    private void assertNothingOf(String prompt) {
        GenerateContent now = new GenerateContent(last());
        assertTrue(now.isDrawing());
        assertFalse(now.canGenerate());
        assertFalse(now.bar().get().isKnown());
        said(now.status(), R.string.phase_encode);
        assertFalse(isSaid(now.figures()));
        assertFalse(now.picture().isPresent());
        assertFalse(now.finished().isPresent());
        said(now.description().get(), R.string.picture_growing, prompt);
    }

    private static void said(Phrase phrase, int id, Object... values) {
        assertEquals(id, phrase.id());
        assertArrayEquals(values, phrase.values());
    }

    private static boolean isSaid(Phrase phrase) {
        return phrase.id() != 0 || !phrase.plain().isEmpty();
    }

    private static String name(State state) {
        return state.kind() + " " + state.task() + " " + state.drawing().map(now -> now.request().prompt()
                + " " + now.phase() + " " + now.done()).orElse("nothing drawn");
    }

    private State last() {
        return states.get(states.size() - 1);
    }

    /** An installation that brings no bundle. */
    private static final class NoAsset implements BundleStore.Packed {
        @Override
        public String version() {
            return "1";
        }

        @Override
        public Optional<InputStream> open() {
            return Optional.empty();
        }
    }
}
