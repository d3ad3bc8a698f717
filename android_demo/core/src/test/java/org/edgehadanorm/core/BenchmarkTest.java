package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;

import java.io.File;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.Map;

import org.junit.Test;

/** A benchmark says what the clock said. */
public class BenchmarkTest {
    private static final long MILLISECOND = 1_000_000;

    @Test
    public void everyPartIsTimed() throws Exception {
        Bundle bundle = Bundle.open(new File(Vectors.folder("loops"), "masked/bundle"), Progress.NONE);
        long[] now = {0};
        // Two predictions a step: of 90, 14, 10, 12, 18, 16, 20 and 22 milliseconds.
        Iterator<Integer> steps = Arrays.asList(80, 10, 7, 7, 5, 5, 4, 8, 9, 9, 8, 8, 10, 10, 11, 11).iterator();
        Scripted programs = new Scripted(bundle, event -> now[0] += MILLISECOND * milliseconds(event, steps));
        Benchmark found = Benchmark.run(bundle, programs, new Request("red apple", "face", 3, "8", 1.5), () -> now[0],
                Listener.NONE);
        assertEquals(2 * 300, found.load().get("denoiser"), 0);
        assertEquals(50, found.load().get("text_encoder"), 0);
        assertEquals(70, found.load().get("image_decoder"), 0);
        assertEquals(Collections.singletonMap("text_encoder", 10.0), found.encode());
        assertEquals(80, found.prepare(), 0);
        assertEquals(90, found.firstStep(), 0);
        assertEquals(16, found.medianStep(), 0);
        assertEquals(10, found.minStep(), 0);
        assertEquals(22, found.maxStep(), 0);
        assertEquals(8, found.decode(), 0);
        assertEquals(16, found.predictions());
        assertEquals(2 * 300 + 50 + 70 + 2 * 5 + 2 * 40 + 90 + 112 + 8, found.total(), 0);
        Map<?, ?> json = (Map<?, ?>) Json.parse(found.toJson(Collections.singletonMap("model", "a \"phone\"")));
        assertEquals("a \"phone\"", ((Map<?, ?>) json.get("device")).get("model"));
        assertEquals(16.0, ((Map<?, ?>) json.get("step_ms")).get("median"));
        assertEquals(600.0, ((Map<?, ?>) json.get("load_ms")).get("denoiser"));
        assertEquals("8", json.get("plan"));
        assertEquals(8L, json.get("steps"));
        assertEquals(16L, json.get("predictions"));
        assertEquals("hadanorm-w8a8", json.get("recipe"));
    }

    @Test
    public void oneStepIsItsOwnMedian() throws Exception {
        Bundle bundle = Bundle.open(new File(Vectors.folder("loops"), "pixels/bundle"), Progress.NONE);
        long[] now = {0};
        Scripted programs = new Scripted(bundle, event -> now[0] += MILLISECOND);
        Benchmark found = Benchmark.run(bundle, programs, new Request("", "", 3, "1", 1), () -> now[0], Listener.NONE);
        assertEquals(1, found.medianStep(), 0);
        assertEquals(1, found.firstStep(), 0);
        assertEquals(0, found.decode(), 0);
    }

    private static int milliseconds(String event, Iterator<Integer> steps) {
        switch (event) {
            case "denoiser.load":
                return 300;
            case "text_encoder.load":
                return 50;
            case "image_decoder.load":
                return 70;
            case "text_encoder.encode":
                return 5;
            case "denoiser.prepare":
                return 40;
            case "denoiser.denoise":
                return steps.next();
            default:
                return 8;
        }
    }
}
