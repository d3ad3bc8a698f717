package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import org.junit.Test;

/** What pictures need of memory is what Python says, and where it is not free nothing is loaded. */
public class MemoryTest {
    private static final Request REQUEST = new Request("red apple", "face", 1, "1", 1.5);

    @Test
    public void everyFigureIsPythons() throws BundleException {
        int known = 0;
        for (File folder : Vectors.folder("loops").listFiles(File::isDirectory)) {
            Map<String, Object> expected = Vectors.json(new File(folder, "memory.json"));
            Memory memory = bundle(folder.getName()).memory();
            Map<String, Object> found = new LinkedHashMap<>();
            memory.needs().forEach((name, bytes) -> found.put(name, bytes.longValue()));
            assertEquals(folder.getName(), expected.get("methods"), found);
            assertEquals(expected.get("peak") != null, memory.peak().isPresent());
            if (memory.peak().isPresent()) {
                known++;
                assertEquals((Long) expected.get("peak"), memory.peak().getAsDouble(), 0);
            }
        }
        assertTrue(known > 4 && known < Vectors.folder("loops").list().length);
    }

    @Test
    public void nothingIsLoadedThatDoesNotFit() throws Exception {
        Bundle bundle = bundle("three");
        double needed = bundle.memory().peak().getAsDouble();
        assertEquals("bundle bundle needs 18 MiB of memory for a picture, and 17 MiB are free: close other apps, or"
                + " take a smaller bundle", refusal(bundle, needed - 1, REQUEST));
        assertTrue(decoded(bundle, needed).contains("image_decoder.decode_small"));
    }

    @Test
    public void whatCannotDecodeIsNotTriedWhereSmallerTilesFit() throws Exception {
        Bundle bundle = bundle("three");
        double decodes = bundle.memory().needs().get("image_decoder.decode");
        assertFalse(decoded(bundle, decodes - 1).contains("image_decoder.decode."));
        assertFalse(decoded(bundle, decodes).contains("image_decoder.decode_small"));
        assertFalse(decoded(bundle, 0).contains("image_decoder.decode_small"));
    }

    @Test
    public void aPictureToBeginWithTakesWhatItsEncoderDoes() throws Exception {
        Bundle bundle = bundle("masked");
        double fromNoise = bundle.memory().peak().getAsDouble();
        double begun = bundle.memory().needs().get("image_encoder.encode");
        Picture picture = new Picture(28, 24, new int[28 * 24]);
        Request request = REQUEST.beginningWith(new Original(picture, Optional.empty()), 1);
        decoded(bundle, fromNoise);
        assertEquals("bundle bundle needs 20 MiB of memory to begin with a picture, and 18 MiB are free: close other"
                + " apps, or begin with noise", refusal(bundle, fromNoise, request));
        assertTrue(refusal(bundle, fromNoise - 1, request).endsWith("or take a smaller bundle"));
        new Generator(bundle, new Scripted(bundle, event -> { }).free(begun)).generate(request, Listener.NONE);
    }

    @Test
    public void whereNothingIsKnownNothingIsRefused() throws Exception {
        assertFalse(bundle("grey").memory().peak().isPresent());
        decoded(bundle("grey"), 1);
    }

    private static Bundle bundle(String form) throws BundleException {
        return Bundle.open(new File(Vectors.folder("loops"), form + "/bundle"), Progress.NONE);
    }

    /** What happened, each with a dot, as a picture was drawn with so much free memory. */
    private static String decoded(Bundle bundle, double free) throws Exception {
        Scripted programs = new Scripted(bundle, event -> { }).free(free);
        new Generator(bundle, programs).generate(REQUEST, Listener.NONE);
        return String.join(".,", programs.events());
    }

    private static String refusal(Bundle bundle, double free, Request request) {
        Generator generator = new Generator(bundle, Scripted.unloaded(bundle).free(free));
        return assertThrows(RunnerException.class, () -> generator.generate(request, Listener.NONE)).getMessage();
    }
}
