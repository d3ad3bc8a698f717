package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.Set;

import org.junit.Before;
import org.junit.Test;

/** What goes wrong in a generation is said, and whatever happens every program that was loaded is closed. */
public class GeneratorTest {
    private static final Request REQUEST = new Request("red apple", "face", 1, "2", 1.5);

    private Bundle bundle;

    @Before
    public void open() throws BundleException {
        bundle = Bundle.open(new File(Vectors.folder("loops"), "masked/bundle"), Progress.NONE);
    }

    @Test
    public void programsAreLoadedAndClosedOneByOne() throws Exception {
        Scripted programs = new Scripted(bundle, event -> { });
        new Generator(bundle, programs).generate(REQUEST, Listener.NONE);
        assertEquals(Arrays.asList("text_encoder.load", "text_encoder.encode", "text_encoder.encode",
                "text_encoder.close", "denoiser.load", "denoiser.prepare", "denoiser.prepare", "denoiser.close",
                "denoiser.load", "denoiser.denoise", "denoiser.denoise", "denoiser.denoise", "denoiser.denoise",
                "denoiser.close", "image_decoder.load", "image_decoder.decode", "image_decoder.close"),
                programs.events());
    }

    @Test
    public void withoutGuidanceNothingIsMadeOfTheNegativePrompt() throws Exception {
        Scripted programs = new Scripted(bundle, event -> { });
        Request request = new Request("red apple", "a zeppelin", 1, "2", 0.5);
        new Generator(bundle, programs).generate(request, Listener.NONE);
        assertEquals(Arrays.asList("text_encoder.load", "text_encoder.encode", "text_encoder.close",
                "denoiser.load", "denoiser.prepare", "denoiser.close", "denoiser.load", "denoiser.denoise",
                "denoiser.denoise", "denoiser.close", "image_decoder.load", "image_decoder.decode",
                "image_decoder.close"), programs.events());
    }

    @Test
    public void aPictureToBeginWithIsEncodedAndItsEncoderClosedBeforeAllElse() throws Exception {
        Scripted programs = new Scripted(bundle, event -> { });
        Request request = REQUEST.beginningWith(new Original(blank(28, 24), Optional.of(blank(28, 24))), 0.5);
        new Generator(bundle, programs).generate(request, Listener.NONE);
        assertEquals(Arrays.asList("image_encoder.load", "image_encoder.encode", "image_encoder.close",
                "text_encoder.load"), programs.events().subList(0, 4));
        assertEquals(2, Collections.frequency(programs.events(), "denoiser.denoise"));
    }

    @Test
    public void aPictureOfAnotherSizeIsRefused() {
        Generator generator = new Generator(bundle, Scripted.unloaded(bundle));
        Original wide = new Original(blank(29, 24), Optional.empty());
        assertRefused("the picture to begin with has 29 x 24 pixels; bundle bundle draws 28 x 24: cut it to that",
                generator, wide);
        Original masked = new Original(blank(28, 24), Optional.of(blank(28, 12)));
        assertRefused("the mask has 28 x 12 pixels; bundle bundle draws 28 x 24: cut it to that", generator, masked);
    }

    @Test
    public void aBundleThatCannotBeginWithAPictureSaysWhy() throws Exception {
        Bundle three = Bundle.open(new File(Vectors.folder("loops"), "three/bundle"), Progress.NONE);
        assertRefused("bundle bundle has no image encoder, so that no picture can begin with another: export it with"
                + " --with-encoder", new Generator(three, Scripted.unloaded(three)),
                new Original(blank(72, 30), Optional.empty()));
        Bundle grey = Bundle.open(new File(Vectors.folder("loops"), "grey/bundle"), Progress.NONE);
        assertRefused("bundle bundle draws in grey alone, so that no picture can begin with one in colours: take"
                + " another bundle", new Generator(grey, Scripted.unloaded(grey)),
                new Original(blank(9, 5), Optional.empty()));
        assertTrue(bundle.takesOriginals());
        assertFalse(three.takesOriginals() || grey.takesOriginals());
    }

    private static void assertRefused(String message, Generator generator, Original original) {
        BundleException error = assertThrows(BundleException.class,
                () -> generator.generate(REQUEST.beginningWith(original, 1), Listener.NONE));
        assertEquals(message, error.getMessage());
    }

    private static Picture blank(int width, int height) {
        return new Picture(width, height, new int[width * height]);
    }

    @Test
    public void anUnknownNegativePromptIsAnsweredWithThoseThatAreCarried() throws Exception {
        Bundle embedded = Bundle.open(new File(Vectors.folder("loops"), "embedded/bundle"), Progress.NONE);
        Generator generator = new Generator(embedded, Scripted.unloaded(embedded));
        BundleException error = assertThrows(BundleException.class,
                () -> generator.generate(new Request("a cat", "ugly", 1, "2", 1.5), Listener.NONE));
        assertEquals("negative prompt 'ugly' is not among those that the bundle carries; take blurry, the empty one",
                error.getMessage());
    }

    @Test
    public void aFailureAtAnyCallClosesWhatIsOpen() throws Exception {
        Scripted whole = new Scripted(bundle, event -> { });
        new Generator(bundle, whole).generate(REQUEST, Listener.NONE);
        for (String moment : whole.events()) {
            if (moment.endsWith(".close")) {
                continue;
            }
            RunnerException failure = new RunnerException("failed at " + moment);
            Scripted programs = new Scripted(bundle, event -> {
                if (event.equals(moment)) {
                    throw failure;
                }
            });
            RunnerException error = assertThrows(RunnerException.class,
                    () -> new Generator(bundle, programs).generate(REQUEST, Listener.NONE));
            assertSame(failure, error);
            assertClosed(programs);
        }
    }

    @Test
    public void tooLittleMemoryIsSaidSo() {
        Scripted programs = new Scripted(bundle, event -> {
            if (event.equals("denoiser.denoise")) {
                throw new OutOfMemoryError();
            }
        });
        RunnerException error = assertThrows(RunnerException.class,
                () -> new Generator(bundle, programs).generate(REQUEST, Listener.NONE));
        assertTrue(error.getMessage(), error.getMessage().contains("not enough memory"));
        assertClosed(programs);
    }

    @Test
    public void aPictureThatCannotBeDecodedIsDecodedBySmallerTiles() throws Exception {
        Bundle three = Bundle.open(new File(Vectors.folder("loops"), "three/bundle"), Progress.NONE);
        Request request = new Request("red apple", "face", 1, "1", 1);
        for (String moment : Arrays.asList("image_decoder.load", "image_decoder.decode")) {
            for (Throwable failure : Arrays.asList(new RunnerException("failed"), new OutOfMemoryError())) {
                boolean[] failed = {false};
                Scripted programs = new Scripted(three, event -> {
                    if (event.equals(moment) && !failed[0]) {
                        failed[0] = true;
                        fail(failure);
                    }
                });
                new Generator(three, programs).generate(request, Listener.NONE);
                List<String> after = programs.events().subList(
                        programs.events().lastIndexOf("image_decoder.load"), programs.events().size());
                assertEquals("image_decoder.decode_small", after.get(1));
                assertFalse(after.contains("image_decoder.decode"));
                assertEquals(programs.events().indexOf("image_decoder.load") < programs.events().lastIndexOf(
                        "image_decoder.load"), failed[0]);
                assertEquals("image_decoder.close", after.get(after.size() - 1));
            }
        }
    }

    @Test
    public void whereSmallerTilesFailTooTheirFailureIsSaid() throws Exception {
        Bundle three = Bundle.open(new File(Vectors.folder("loops"), "three/bundle"), Progress.NONE);
        Scripted programs = new Scripted(three, event -> {
            if (event.startsWith("image_decoder.decode")) {
                throw new RunnerException("failed at " + event);
            }
        });
        RunnerException error = assertThrows(RunnerException.class, () -> new Generator(three, programs)
                .generate(new Request("red apple", "face", 1, "1", 1), Listener.NONE));
        assertEquals("failed at image_decoder.decode_small", error.getMessage());
        assertClosed(programs);
    }

    private static void fail(Throwable failure) throws RunnerException {
        if (failure instanceof OutOfMemoryError) {
            throw (OutOfMemoryError) failure;
        }
        throw (RunnerException) failure;
    }

    @Test
    public void aProgramThatIsNotAsTheManifestSaysIsRefused() {
        ModuleRunner other = new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) {
                return new Tensor[] {Tensor.of(new float[3], 3)};
            }

            @Override
            public void close() {
            }
        };
        ModuleRunner.Loader loader = new ModuleRunner.Loader() {
            @Override
            public Set<String> targets() {
                return Vectors.TARGETS;
            }

            @Override
            public long free() {
                return 0;
            }

            @Override
            public ModuleRunner load(File program, String... methods) {
                return other;
            }
        };
        RunnerException error = assertThrows(RunnerException.class,
                () -> new Generator(bundle, loader).generate(REQUEST, Listener.NONE));
        assertEquals("text_encoder.encode gives text float32 [1, 8, 6] by the manifest, not float32 [3];"
                + " export the bundle again", error.getMessage());
    }

    @Test
    public void stepsAreTimedByTheClock() throws Exception {
        long[] now = {0};
        Scripted programs = new Scripted(bundle, event -> now[0] += event.endsWith("denoise") ? 7_500_000 : 1_000_000);
        List<Double> times = new ArrayList<>();
        new Generator(bundle, programs, () -> now[0]).generate(REQUEST, new Quiet() {
            @Override
            public void step(int done, int steps, double milliseconds, Picture preview) {
                times.add(milliseconds);
                now[0] += 99_000_000;  // what a listener does is not the step's
            }
        });
        assertEquals(Arrays.asList(15.0, 15.0), times);
    }

    private static void assertClosed(Scripted programs) {
        int open = 0;
        for (String event : programs.events()) {
            open += event.endsWith(".load") ? 1 : event.endsWith(".close") ? -1 : 0;
        }
        String last = programs.events().get(programs.events().size() - 1);
        assertEquals(programs.events().toString(), last.endsWith(".load") ? 1 : 0, open);
    }

    /** A listener that a test changes in part. */
    abstract static class Quiet implements Listener {
        @Override
        public boolean cancelled() {
            return false;
        }

        @Override
        public void phase(Phase phase) {
        }
    }
}
