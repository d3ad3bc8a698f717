package org.edgehadanorm.desktop;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.edgehadanorm.core.Benchmark;
import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Clock;
import org.edgehadanorm.core.Listener;
import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.Progress;
import org.edgehadanorm.core.SelfCheck;
import org.edgehadanorm.demo.ExecuTorchRunner;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameters;

/** What the app offers besides pictures, on every bundle of the cases. */
@RunWith(Parameterized.class)
public final class BundleTest {
    private static final ModuleRunner.Loader LOADER = ExecuTorchRunner.loader(1, () -> 0);

    private final File folder;

    public BundleTest(File folder) {
        this.folder = folder;
    }

    @Parameters(name = "{0}")
    public static Set<File> bundles() throws IOException {
        Set<File> folders = new LinkedHashSet<>();
        for (Case one : Case.all()) {
            folders.add(one.folder());
        }
        return folders;
    }

    @Test
    public void theGoldenSampleIsMet() throws Exception {
        SelfCheck.Result result = new SelfCheck(bundle(), LOADER, Png::read).run(Listener.NONE);
        assertTrue(result.psnrDb() + " dB of " + result.needed(), result.passed());
    }

    @Test
    public void aBenchmarkTimesEveryProgramThatAPictureTakes() throws Exception {
        Bundle bundle = bundle();
        Case first = Case.of(folder);
        Benchmark times = Benchmark.run(bundle, LOADER, first.request(), Clock.SYSTEM, Listener.NONE);
        Set<String> loaded = new LinkedHashSet<>(bundle.programs().keySet());
        loaded.remove("image_encoder");  // the picture begins with noise
        assertEquals(loaded, times.load().keySet());
        List<Double> parts = new ArrayList<>(times.load().values());
        parts.addAll(times.encode().values());
        parts.addAll(Arrays.asList(times.prepare(), times.firstStep(), times.decode()));
        assertTrue(parts.stream().mapToDouble(part -> part).sum() <= times.total());
        assertTrue(0 < times.minStep() && times.minStep() <= times.medianStep());
    }

    private Bundle bundle() throws Exception {
        return Bundle.open(folder, Progress.NONE);
    }
}
