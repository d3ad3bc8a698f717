package org.edgehadanorm.desktop;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import com.facebook.jni.HybridData;
import java.io.IOException;
import java.util.List;
import org.edgehadanorm.core.Generator;
import org.edgehadanorm.core.Listener;
import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.Phase;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.demo.ExecuTorchRunner;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameters;

/** The app's runner and loop on this machine: the calls and the pictures of Python's runtime, bit for bit. */
@RunWith(Parameterized.class)
public final class PictureTest {
    private static final ModuleRunner.Loader LOADER = ExecuTorchRunner.loader(1, () -> 0);

    private final Case given;

    public PictureTest(Case given) {
        this.given = given;
    }

    @Parameters(name = "{0}")
    public static List<Case> cases() throws IOException {
        return Case.all();
    }

    @Test
    public void everyCallAndThePictureHaveTheBitsOfPythonsRuntime() throws Exception {
        Recorder recorder = new Recorder(LOADER);
        Picture picture = new Generator(given.bundle(), recorder).generate(given.request(), Listener.NONE);
        assertEquals(given.calls(), recorder.calls());
        assertEquals(given.pixels(), Digest.of(picture));
    }

    @Test
    public void oneProgramIsInMemoryAtATime() throws Exception {
        int before = HybridData.live();
        Recorder recorder = new Recorder(LOADER);
        new Generator(given.bundle(), recorder).generate(given.request(), new Listener() {
            @Override
            public boolean cancelled() {
                assertTrue(HybridData.live() - before <= 1);
                return false;
            }

            @Override
            public void phase(Phase phase) {
            }

            @Override
            public void step(int done, int steps, double milliseconds, Picture preview) {
                assertEquals(before + 1, HybridData.live());
            }
        });
        assertEquals(1, recorder.most());
        assertEquals(0, recorder.open());
        assertEquals(before, HybridData.live());
    }
}
