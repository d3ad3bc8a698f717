package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

import org.junit.Before;
import org.junit.Test;

/** A bundle of two sizes is at either of them a bundle of that size alone; GenerationTest draws with it. */
public class SizesTest {
    private static final String OTHER = "32x18";

    private Bundle bundle;
    private Map<String, Object> manifest;
    private Map<String, Object> size;

    @Before
    public void open() throws BundleException {
        File folder = new File(Vectors.folder("sizes"), "bundle");
        bundle = Bundle.open(folder, Progress.NONE);
        manifest = Vectors.json(new File(folder, Manifest.FILE));
        size = Manifest.object(Manifest.object(manifest, "sizes"), OTHER);
    }

    @Test
    public void atEachSizeItSaysWhatItIsThere() throws Exception {
        assertEquals(Arrays.asList("28x24", OTHER), bundle.sizes());
        assertEquals("28x24", bundle.size());
        assertTrue(bundle.golden().isPresent());
        Bundle other = bundle.at(OTHER);
        assertEquals(bundle.sizes(), other.sizes());
        assertEquals(OTHER, other.size());
        assertEquals(32, other.width());
        assertEquals(18, other.height());
        assertArrayEquals(new int[] {4, 9, 16}, other.latentShape());
        assertEquals(Collections.singleton("4"), other.plans().keySet());
        assertEquals(Arrays.asList("1", "2", "4", "8"), new ArrayList<>(bundle.plans().keySet()));
        assertFalse(other.golden().isPresent());
        assertSame(bundle, other.usual());
        assertSame(bundle, other.at("28x24"));
        Method denoise = other.programs().get("denoiser").method("denoise");
        assertEquals("denoise_32x18", denoise.own());
        assertEquals("denoiser.denoise", denoise.name());
        assertEquals("latents float32 [1, 4, 9, 16]", denoise.inputs().get(0).toString());
        assertEquals("prepare", other.programs().get("denoiser").method("prepare").own());
    }

    @Test
    public void asABundleOfThatSizeAloneItNeedsItsMemory() throws Exception {
        Map<String, Map<String, Object>> expected = Vectors.json(new File(Vectors.folder("sizes"), "memory.json"));
        assertEquals(new ArrayList<>(expected.keySet()), bundle.sizes());
        for (String name : bundle.sizes()) {
            Map<String, Object> found = new LinkedHashMap<>();
            bundle.at(name).memory().needs().forEach((method, bytes) -> found.put(method, bytes.longValue()));
            assertEquals(expected.get(name).get("methods"), found);
        }
    }

    @Test
    public void aBenchmarkNamesMethodsByWhatTheyStandFor() throws Exception {
        Bundle other = bundle.at(OTHER);
        long[] now = {0};
        Scripted programs = new Scripted(other, event -> now[0] += 1_000_000);
        Benchmark found = Benchmark.run(other, programs, new Request("red apple", "face", 1, "4", 1.5), () -> now[0],
                Listener.NONE);
        assertEquals(8, found.predictions());
        assertTrue(found.decode() > 1);
        assertTrue(programs.events().contains("denoiser.denoise_32x18"));
    }

    @Test
    public void aSizeThatIsNotThereIsAnsweredWithThoseThatAre() {
        BundleException error = assertThrows(BundleException.class, () -> bundle.at("1x1"));
        assertEquals("bundle bundle draws no pictures of 1x1 pixels; take one of 28x24, 32x18", error.getMessage());
    }

    @Test
    public void sizesAreThere() {
        refused("sizes", null, ".sizes is null, not an object");
        manifest.remove("sizes");
        refused(".sizes is missing");
    }

    @Test
    public void aSizeIsThatOfItsPicturesAndNotTheDefault() {
        Map<String, Object> sizes = Manifest.object(manifest, "sizes");
        sizes.put("32x19", sizes.remove(OTHER));
        refused(".sizes['32x19'] is of a picture of 32x18");
        sizes.remove("32x19");
        size.put("image", manifest.get("image"));
        sizes.put("28x24", size);
        refused(".sizes['28x24'] is the default size");
        sizes.put("28x24", null);
        refused(".sizes['28x24'] is null, not an object");
    }

    @Test
    public void whatASizeSpeaksOfIsThere() {
        Map<String, Object> methods = Manifest.object(size, "methods");
        Map<String, Object> denoiser = Manifest.object(methods, "denoiser");
        denoiser.put("denoise", "denoise_1x1");
        refused(".sizes['32x18'].methods.denoiser.denoise is 'denoise_1x1', which the program does not have");
        denoiser.put("denoise", 3L);
        refused(".sizes['32x18'].methods['denoiser']['denoise'] is 3, not a string");
        denoiser.put("denoise", "denoise_32x18");
        methods.put("painter", methods.remove("denoiser"));
        refused(".sizes['32x18'].methods has 'painter', which is no program");
    }

    @Test
    public void whatIsRefusedOfABundleOfThatSizeAloneIsRefused() {
        Map<String, Object> methods = Manifest.object(size, "methods");
        Object denoiser = methods.remove("denoiser");
        refused(".programs.denoiser.methods.denoise.inputs do not begin with [1, *latents.shape] (.sizes['32x18'])");
        methods.put("denoiser", denoiser);
        Map<String, Object> plans = Manifest.object(size, "plans");
        plans.put("2", plans.remove("4"));
        refused(".sampling.plan is '4', which is not among the plans (.sizes['32x18'])");
        plans.put("4", new LinkedHashMap<>());
        refused("(.sampling.plans['4']) (.sizes['32x18'])");
        size.put("plans", null);
        List<Object> shape = Arrays.asList(4L, 9L);
        Manifest.object(size, "latents").put("shape", shape);
        refused(".sizes['32x18'].latents.shape is [4, 9], not [C, H, W]");
    }

    @Test
    public void withoutPlansOfItsOwnASizeHasTheDefaults() throws Exception {
        size.put("plans", null);
        Manifest other = Manifest.of(manifest, "it").at(OTHER);
        assertEquals(Manifest.object(Manifest.object(manifest, "sampling"), "plans"),
                Manifest.object(other.object("sampling"), "plans"));
    }

    private void refused(String key, Object value, String message) {
        manifest.put(key, value);
        refused(message);
    }

    private void refused(String message) {
        BundleException error = assertThrows(BundleException.class, () -> Manifest.of(manifest, "it"));
        assertTrue(error.getMessage(), error.getMessage().contains(message));
        assertTrue(error.getMessage(), error.getMessage().endsWith("; export the bundle again"));
    }
}
