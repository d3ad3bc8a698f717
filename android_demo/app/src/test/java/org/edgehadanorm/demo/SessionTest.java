package org.edgehadanorm.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.Set;

import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Request;
import org.edgehadanorm.core.RunnerException;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The session with everything on one thread: a call returns when its task has ended. */
public final class SessionTest {
    private static final Request CAT = new Request("cat", "", 7, "2", 1.5);
    private static final long PLENTY = 1L << 40;

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();
    private final List<State> states = new ArrayList<>();
    private final Session.Observer observer = states::add;
    private final App app = new App();
    private TinyBundle.Before before = method -> { };
    private long free = PLENTY;
    private Session session;

    @Before
    public void start() {
        session = session();
    }

    @Test
    public void theFirstStartUnpacksAndOpensTheBundleOfTheApp() {
        session.begin();
        assertEquals(Collections.singletonList("reference"), last().names());
        assertEquals("reference", last().bundle().get().name());
        assertTrue(last().is(State.Kind.DONE, State.Task.OPEN));
    }

    @Test
    public void laterStartsDoNotUnpackItAgain() {
        session.begin();
        session();
        session.begin();
        assertEquals(1, app.opened);
        assertEquals("reference", last().bundle().get().name());
    }

    @Test
    public void aDeletedBundleOfTheAppComesBackWithAnotherInstallationOnly() {
        session.begin();
        session.delete("reference");
        assertFalse(last().bundle().isPresent());
        session = session();
        session.begin();
        assertTrue(last().names().isEmpty());
        app.version = "2";
        session = session();
        session.begin();
        assertEquals("reference", last().bundle().get().name());
    }

    @Test
    public void withoutABundleInTheAppThereIsNoneAndNothingIsWrong() {
        app.has = false;
        session.begin();
        assertTrue(last().is(State.Kind.DONE, State.Task.OPEN));
        assertTrue(last().names().isEmpty());
    }

    @Test
    public void anImportedBundleIsChosenNowAndAtTheNextStart() {
        session.begin();
        session.add(() -> TinyBundle.ofBytes(1).zip(), "my model.zip");
        assertEquals("my-model", last().bundle().get().name());
        session = session();
        session.begin();
        assertEquals("my-model", last().bundle().get().name());
        session.choose("reference");
        assertEquals("reference", last().bundle().get().name());
    }

    @Test
    public void aTakenNameGetsANumber() {
        session.add(() -> TinyBundle.ofBytes(1).zip(), "a.zip");
        session.add(() -> TinyBundle.ofBytes(2).zip(), "a.zip");
        assertEquals(Arrays.asList("a", "a-2"), last().names());
    }

    @Test
    public void aDamagedZipLeavesWhatThereWas() {
        session.begin();
        session.add(() -> new ByteArrayInputStream(new byte[] {1, 2, 3}), "bad.zip");
        assertTrue(last().is(State.Kind.FAILED, State.Task.IMPORT));
        assertFalse(last().message().isEmpty());
        assertEquals(Collections.singletonList("reference"), last().names());
        assertEquals("reference", last().bundle().get().name());
    }

    @Test
    public void aCancelledImportLeavesNothing() {
        session.begin();
        session.add(() -> {
            session.cancel();
            return TinyBundle.ofBytes(1 << 20).zip();
        }, "other.zip");
        assertTrue(last().is(State.Kind.IDLE, State.Task.IMPORT));
        assertEquals(Collections.singletonList("reference"), last().names());
        assertEquals("reference", last().bundle().get().name());
        String[] left = new File(folder.getRoot(), "bundles").list();
        assertEquals(Collections.singletonList("reference"), Arrays.asList(left));
    }

    @Test
    public void aDamagedBundleInTheAppDoesNotKeepAPersonFromTheirOwn() {
        app.has = false;
        session.begin();
        session.add(() -> TinyBundle.ofBytes(1).zip(), "mine.zip");
        app.version = "2";
        app.has = true;
        app.damaged = true;
        session = session();
        session.begin();
        assertTrue(last().is(State.Kind.FAILED, State.Task.OPEN));
        assertEquals("mine", last().bundle().get().name());
    }

    @Test
    public void aBundleForAnotherSystemIsRefusedByName() {
        session.begin();
        session.add(() -> TinyBundle.of("coreml").zip(), "apple.zip");
        assertEquals("bundle apple was made for coreml; this app runs xnnpack: export it with --target xnnpack",
                last().message());
        assertEquals(Collections.singletonList("reference"), last().names());
    }

    @Test
    public void theBundlesOfItsRunnersTargetsAreTakenAndNoOthers() {
        app.has = false;
        session = session(Collections.singleton("vulkan"));
        session.begin();
        session.add(() -> TinyBundle.of("xnnpack").zip(), "cpu.zip");
        assertTrue(last().is(State.Kind.FAILED, State.Task.IMPORT));
        assertEquals("bundle cpu was made for xnnpack; this app runs vulkan: export it with --target vulkan",
                last().message());
        assertTrue(last().names().isEmpty());
        session.add(() -> TinyBundle.of("vulkan").zip(), "gpu.zip");
        session.draw(CAT);
        assertTrue(last().message(), last().is(State.Kind.DONE, State.Task.DRAW));
        session.choose("gpu");
        assertEquals("gpu", last().bundle().get().name());
    }

    @Test
    public void aBundleOfAnAppThatRanAnotherTargetIsRefusedByName() {
        app.has = false;
        session = session(Collections.singleton("vulkan"));
        session.add(() -> TinyBundle.of("vulkan").zip(), "gpu.zip");
        session = session();
        session.begin();
        assertTrue(last().is(State.Kind.FAILED, State.Task.OPEN));
        assertEquals("bundle gpu was made for vulkan; this app runs xnnpack: export it with --target xnnpack",
                last().message());
        assertFalse(last().bundle().isPresent());
    }

    @Test
    public void aBundleThatWasAlteredOnTheDeviceIsNotOpened() throws IOException {
        session.begin();
        File program = new File(folder.getRoot(), "bundles/reference/denoiser.pte");
        assertTrue(program.delete());
        session = session();
        session.begin();
        assertTrue(last().is(State.Kind.FAILED, State.Task.OPEN));
        assertTrue(last().message(), last().message().contains("denoiser.pte"));
        assertFalse(last().bundle().isPresent());
    }

    @Test
    public void aPictureGrowsStepByStep() {
        session.begin();
        states.clear();
        session.draw(CAT);
        List<Integer> steps = new ArrayList<>();
        for (State state : states) {
            int done = state.drawing().map(Drawing::done).orElse(-1);
            if (done >= 0 && !steps.contains(done)) {
                steps.add(done);
                assertEquals(done > 0, state.drawing().get().picture().isPresent());
            }
        }
        assertEquals(Arrays.asList(0, 1, 2), steps);
        assertTrue(last().drawing().get().isFinished());
        assertTrue(last().is(State.Kind.DONE, State.Task.DRAW));
    }

    @Test
    public void cancelledAfterAStepItKeepsWhatThereIs() {
        session.begin();
        before = method -> {
            if (method.equals("denoise")) {
                session.cancel();
            }
        };
        session.draw(CAT);
        assertTrue(last().is(State.Kind.IDLE, State.Task.DRAW));
        assertEquals(1, last().drawing().get().done());
        assertFalse(last().drawing().get().isFinished());
        before = method -> { };
        session.draw(CAT);
        assertTrue(last().drawing().get().isFinished());
    }

    @Test
    public void whatTheRuntimeSaysIsSaidToThePerson() {
        session.begin();
        before = method -> {
            throw new RunnerException("the runtime is too old");
        };
        session.draw(CAT);
        assertTrue(last().is(State.Kind.FAILED, State.Task.DRAW));
        assertEquals("the runtime is too old", last().message());
    }

    @Test
    public void aTaskDuringAnotherIsIgnored() {
        session.begin();
        before = method -> session.delete("reference");
        session.draw(CAT);
        assertTrue(last().is(State.Kind.DONE, State.Task.DRAW));
        assertEquals(Collections.singletonList("reference"), last().names());
    }

    @Test
    public void nothingIsLoadedThatDoesNotFit() {
        session.add(() -> TinyBundle.ofBytes(10 << 20).zip(), "big.zip");
        free = 20L << 20;
        before = method -> {
            throw new AssertionError(method);
        };
        for (Runnable task : Arrays.<Runnable>asList(() -> session.draw(CAT), () -> session.measure(CAT, 1))) {
            task.run();
            assertEquals("bundle big needs 26 MiB of memory for a picture, and 20 MiB are free: close other apps, or"
                    + " take a smaller bundle", last().message());
        }
        assertTrue(new BundlesContent(last()).facts().stream().anyMatch(
                fact -> fact.value().plain().equals(Format.bytes(27_010_352))));
    }

    @Test
    public void anUnknownPromptIsAnAnswerNotACrash() {
        session.begin();
        session.draw(new Request("unicorn", "", 7, "2", 1.5));
        assertTrue(last().is(State.Kind.FAILED, State.Task.DRAW));
        assertTrue(last().message(), last().message().contains("unicorn"));
    }

    @Test
    public void anUnknownNegativePromptIsToo() {
        session.begin();
        session.draw(new Request("cat", "unicorn", 7, "2", 1.5));
        assertTrue(last().message(), last().message().contains("unicorn"));
        session.draw(new Request("cat", "unicorn", 7, "2", 1));
        assertTrue(last().message(), last().is(State.Kind.DONE, State.Task.DRAW));
    }

    @Test
    public void aBundleOfAnEarlierSchemaThatWasImportedThenSaysWhatToDo() throws IOException {
        session.begin();
        File manifest = new File(folder.getRoot(), "bundles/reference/manifest.json");
        String text = new String(Files.readAllBytes(manifest.toPath()), StandardCharsets.UTF_8);
        Files.write(manifest.toPath(), text.replace("\"schema\": 3", "\"schema\": 2").getBytes(StandardCharsets.UTF_8));
        session = session();
        session.begin();
        assertTrue(last().is(State.Kind.FAILED, State.Task.OPEN));
        assertEquals("manifest of reference: made by an older edge-hadanorm (schema 2, this app reads 3); export the"
                + " checkpoint again", last().message());
    }

    @Test
    public void aBenchmarkBelongsToItsBundle() {
        session.begin();
        session.measure(CAT, 3);
        assertTrue(last().benchmark().isPresent());
        assertEquals(3, last().threads());
        session.add(() -> TinyBundle.ofBytes(1).zip(), "other.zip");
        assertFalse(last().benchmark().isPresent());
    }

    @Test
    public void pictureAndBenchmarkAreOfTheChosenSizeAndTheCheckOfTheDefault() {
        session.add(() -> TinyBundle.withSizes().zip(), "sizes.zip");
        session.beginWith((width, height) -> new Picture(width, height, new int[width * height]));
        session.measure(CAT, 1);
        session.resize("1x2");
        assertTrue(last().message(), last().is(State.Kind.DONE, State.Task.OPEN));
        assertFalse(last().original().isPresent() || last().benchmark().isPresent());
        session.draw(CAT);
        assertEquals("1x2", size(last().drawing().get().picture().get()));
        session.beginWith((width, height) -> {
            assertEquals("1x2", width + "x" + height);
            return new Picture(width, height, new int[width * height]);
        });
        session.measure(BenchmarkContent.request(last().bundle().get(), Optional.empty()), 1);
        assertTrue(last().benchmark().get().toJson(Collections.emptyMap()).contains("\"width\": 1, \"height\": 2"));
        assertTrue(new BundlesContent(last()).hasCheck());
        session.check();
        assertEquals("2x2", size(last().check().get().drawn()));
        session.resize("3x3");
        assertEquals("bundle sizes draws no pictures of 3x3 pixels; take one of 2x2, 1x2", last().message());
        assertEquals("1x2", last().bundle().get().size());
        session.choose("sizes");
        assertEquals("2x2", last().bundle().get().size());
    }

    private static String size(Picture picture) {
        return picture.width() + "x" + picture.height();
    }

    @Test
    public void aScreenThatIsGoneHearsNothingAndTheNextOneHearsAllAtOnce() {
        session.begin();
        int heard = states.size();
        session.forget(observer);
        session.draw(CAT);
        assertEquals(heard, states.size());
        session.observe(observer);
        assertTrue(last().drawing().get().isFinished());
    }

    private Session session() {
        return session(Collections.singleton("xnnpack"));
    }

    /** targets: that the runner has programs of. */
    private Session session(Set<String> targets) {
        session = new Session(new BundleStore(folder.getRoot()), app,
                threads -> TinyBundle.loader(targets, () -> free, method -> before.run(method)),
                file -> new Picture(2, 2, new int[4]), new PeakMemory(folder.getRoot()),
                Worker.prompt(), Runnable::run);
        session.observe(observer);
        return session;
    }

    private State last() {
        return states.get(states.size() - 1);
    }

    /** An installation of the app. */
    private static final class App implements BundleStore.Packed {
        private String version = "1";
        private boolean has = true;
        private boolean damaged;
        private int opened;

        @Override
        public String version() {
            return version;
        }

        @Override
        public Optional<InputStream> open() throws IOException {
            opened++;
            if (damaged) {
                return Optional.of(new ByteArrayInputStream(new byte[10]));
            }
            return has ? Optional.of(TinyBundle.ofBytes(3).zip()) : Optional.empty();
        }
    }
}
