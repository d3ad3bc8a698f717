package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;

import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameter;
import org.junit.runners.Parameterized.Parameters;

/** With bundles of every form, the calls of the programs and the picture are Python's, bit for bit. */
@RunWith(Parameterized.class)
public class GenerationTest {
    @Parameter
    public String form;

    private File folder;
    private Bundle bundle;
    private Map<String, List<Map<String, Object>>> expected;

    @Parameters(name = "{0}")
    public static Collection<String> forms() {
        List<String> names = new ArrayList<>();
        for (File each : Vectors.folder("loops").listFiles(File::isDirectory)) {
            names.add("loops/" + each.getName());
        }
        names.add("sizes");
        return names;
    }

    @Before
    public void open() throws BundleException {
        folder = Vectors.folder(form);
        bundle = Bundle.open(new File(folder, "bundle"), Progress.NONE);
        expected = Vectors.json(new File(folder, "cases.json"));
    }

    @Test
    public void callsAndPicturesArePythons() throws Exception {
        for (Map<String, Object> each : expected.get("cases")) {
            Bundle bundle = at(each);
            Playback programs = new Playback(folder, calls(each));
            Watcher watcher = new Watcher();
            Picture made = new Generator(bundle, programs).generate(request(each), watcher);
            programs.assertDone();
            List<?> shape = (List<?>) each.get("shape");
            assertEquals(bundle.width(), made.width());
            assertEquals(bundle.height(), made.height());
            assertEquals((long) (Long) shape.get(2), made.width());
            Picture wanted = Vectors.picture(Vectors.longs(folder, each.get("pixels")), made.height(), made.width());
            assertArrayEquals(each.get("request").toString(), wanted.argb(), made.argb());
            watcher.check(steps(each), bundle, request(each).original().isPresent());
        }
    }

    @Test
    public void oneProgramIsInMemoryAtATime() throws Exception {
        List<Map<String, Object>> cases = expected.get("cases");
        for (Map<String, Object> each : Arrays.asList(cases.get(0), cases.get(cases.size() - 1))) {
            Playback programs = new Playback(folder, calls(each));
            Request request = request(each);
            new Generator(at(each), programs).generate(request, Listener.NONE);
            assertEquals(programs(each), programs.loaded());
        }
    }

    /** Files in the order in which they are loaded. */
    private List<String> programs(Map<String, Object> each) throws IOException {
        Request request = request(each);
        List<String> wanted = new ArrayList<>();
        if (request.original().isPresent() && bundle.programs().containsKey(Links.DECODER)) {
            wanted.add("image_encoder.pte");
        }
        for (String role : Schema.ENCODERS) {
            if (bundle.programs().containsKey(role)) {
                wanted.add(role + ".pte");
            }
        }
        wanted.add("denoiser.pte");  // what prepares is closed before the steps
        wanted.add("denoiser.pte");
        if (bundle.programs().containsKey(Links.DECODER)) {
            wanted.add("image_decoder.pte");
            if (calls(each).stream().anyMatch(call -> call.get("outputs") == null)) {
                wanted.add("image_decoder.pte");  // for smaller tiles, as its other method fails
            }
        }
        return wanted;
    }

    @Test
    public void whatPythonRefusesIsRefusedBeforeAnythingIsLoaded() throws IOException {
        for (Map<String, Object> each : expected.get("refusals")) {
            Generator generator = new Generator(bundle, Scripted.unloaded(bundle));
            Request request = request(each);
            BundleException error = assertThrows(each.toString(), BundleException.class,
                    () -> generator.generate(request, Listener.NONE));
            assertTrue(error.getMessage(), error.getMessage().length() > 20 && !error.getMessage().contains("\n"));
        }
    }

    @Test
    public void theGoldenSampleChecksItself() throws Exception {
        Map<String, Object> first = expected.get("cases").get(0);
        SelfCheck check = new SelfCheck(bundle, new Playback(folder, calls(first)), Vectors::png);
        SelfCheck.Result result = check.run(Listener.NONE);
        assertEquals(Double.POSITIVE_INFINITY, result.psnrDb(), 0);
        assertEquals(40, result.needed(), 0);
        assertTrue(result.passed());
    }

    @Test
    public void aListenerCanCancelAtAnyMoment() throws Exception {
        List<Map<String, Object>> cases = expected.get("cases");
        cancelAtAnyMoment(cases.get(3));
        cancelAtAnyMoment(cases.get(cases.size() - 1));
    }

    private void cancelAtAnyMoment(Map<String, Object> each) throws Exception {
        Request request = request(each);
        Bundle bundle = at(each);
        Watcher whole = new Watcher();
        new Generator(bundle, new Playback(folder, calls(each))).generate(request, whole);
        assertTrue(whole.questions > steps(each));
        for (int moment = 0; moment < whole.questions; moment++) {
            Watcher watcher = new Watcher();
            int last = moment;
            Playback programs = new Playback(folder, calls(each));
            watcher.patience = last;
            assertThrows("moment " + moment, Cancelled.class,
                    () -> new Generator(bundle, programs).generate(request, watcher));
            assertEquals("asked on after it was cancelled", last + 1, watcher.questions);
            assertTrue(programs.loaded().size() <= whole.questions);
        }
    }

    @SuppressWarnings("unchecked")
    static List<Map<String, Object>> calls(Map<String, Object> each) {
        return (List<Map<String, Object>>) each.get("calls");
    }

    private Request request(Map<String, Object> each) throws IOException {
        Map<?, ?> asked = (Map<?, ?>) each.get("request");
        Request request = new Request((String) asked.get("prompt"), (String) asked.get("negative"),
                (Long) asked.get("seed"), (String) asked.get("plan"), ((Number) asked.get("guidance")).doubleValue());
        return Vectors.begun(request, folder, asked.get("original"));
    }

    private int steps(Map<String, Object> each) throws BundleException, IOException {
        return at(each).plan(request(each)).steps();
    }

    /** The bundle at the size of a case. */
    private Bundle at(Map<String, Object> each) throws BundleException {
        return each.containsKey("size") ? bundle.at((String) each.get("size")) : bundle;
    }

    /** Notes what it is told, and cancels when it has been asked often enough. */
    private static final class Watcher implements Listener {
        private final List<Phase> phases = new ArrayList<>();
        private final List<Picture> previews = new ArrayList<>();
        private int patience = Integer.MAX_VALUE;
        private int questions;
        private int steps;

        @Override
        public boolean cancelled() {
            return questions++ >= patience;
        }

        @Override
        public void phase(Phase phase) {
            phases.add(phase);
        }

        @Override
        public void step(int done, int all, double milliseconds, Picture preview) {
            assertEquals(previews.size() + 1, done);
            assertTrue(milliseconds >= 0);
            steps = all;
            previews.add(preview);
        }

        void check(int wantedSteps, Bundle bundle, boolean begins) {
            assertEquals(wantedSteps, steps);
            assertEquals(steps, previews.size());
            int[] latents = bundle.latentShape();
            for (Picture preview : previews) {
                assertEquals(latents[2], preview.width());
                assertEquals(latents[1], preview.height());
            }
            List<Phase> wanted = new ArrayList<>();
            if (begins && bundle.programs().containsKey(Links.DECODER)) {
                wanted.add(Phase.ENCODE_PICTURE);
            }
            for (String role : Schema.ENCODERS) {
                if (bundle.programs().containsKey(role)) {
                    wanted.add(Phase.ENCODE);
                }
            }
            wanted.add(Phase.PREPARE);
            wanted.add(Phase.DENOISE);
            if (bundle.programs().containsKey(Links.DECODER)) {
                wanted.add(Phase.DECODE);
            }
            assertEquals(wanted, phases);
        }
    }
}
