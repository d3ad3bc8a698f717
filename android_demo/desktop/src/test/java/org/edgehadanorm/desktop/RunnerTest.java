package org.edgehadanorm.desktop;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import com.facebook.jni.HybridData;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.util.Arrays;
import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.RunnerException;
import org.edgehadanorm.core.Tensor;
import org.edgehadanorm.demo.ExecuTorchRunner;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The app's runner: results that stay, and one sentence for a person about whatever goes wrong. */
public final class RunnerTest {
    private static final ModuleRunner.Loader LOADER = ExecuTorchRunner.loader(1, () -> 0);
    private static final File LINEAR = new File(System.getProperty("programs"), "linear.pte");
    private static final Tensor ZEROS = Tensor.of(new float[33 * 256], 1, 33, 256);

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void aResultStaysWhenTheMethodIsCalledAgain() throws Exception {
        float[] values = new float[33 * 256];
        Arrays.fill(values, 0, 256, 1f);
        ModuleRunner runner = LOADER.load(LINEAR, "forward");
        Tensor first = runner.run("forward", Tensor.of(values, 1, 33, 256))[0];
        float[] copy = first.floats().clone();
        assertFalse(Arrays.equals(copy, runner.run("forward", ZEROS)[0].floats()));
        runner.close();
        assertArrayEquals(copy, first.floats(), 0f);
        assertArrayEquals(new long[] {1, 33, 96}, first.shape());
    }

    @Test
    public void aProgramThatIsCutOffIsRefused() throws IOException {
        byte[] whole = Files.readAllBytes(LINEAR.toPath());
        for (int length : new int[] {0, 7, 100, whole.length / 2, whole.length - 1}) {
            File file = write("cut.pte", Arrays.copyOf(whole, length));
            assertSentence("Cannot load cut.pte: this app's ExecuTorch does not understand it",
                    () -> LOADER.load(file, "forward"));
        }
    }

    @Test
    public void aFileThatIsNoProgramIsRefused() throws IOException {
        File file = write("text.pte", new byte[1 << 16]);
        assertSentence("Cannot load text.pte: this app's ExecuTorch does not understand it",
                () -> LOADER.load(file, "forward"));
        assertSentence("Cannot load none.pte", () -> LOADER.load(new File(folder.getRoot(), "none.pte")));
        assertSentence("Cannot load", () -> LOADER.load(folder.getRoot()));
    }

    /** The header says that the program is for another schema of ExecuTorch: "ET12" is the only one there has been. */
    @Test
    public void aProgramOfAnotherSchemaIsRefused() throws IOException {
        File file = write("newer.pte", Files.readAllBytes(LINEAR.toPath()));
        try (RandomAccessFile bytes = new RandomAccessFile(file, "rw")) {
            bytes.seek(4);
            bytes.writeBytes("ET99");
        }
        assertSentence("Cannot load newer.pte: this app's ExecuTorch does not understand it",
                () -> LOADER.load(file, "forward"));
    }

    @Test
    public void aMethodThatIsNoneIsNamed() throws Exception {
        try (ModuleRunner runner = LOADER.load(LINEAR, "forward")) {
            assertSentence("linear.pte has no method `denoise`", () -> runner.run("denoise", ZEROS));
        }
        int before = HybridData.live();
        assertSentence("linear.pte has no method `denoise`", () -> LOADER.load(LINEAR, "forward", "denoise"));
        assertEquals(before, HybridData.live());
    }

    @Test
    public void inputsOfAnotherKindAreRefusedAndTheProgramStaysUsable() throws Exception {
        int before = HybridData.live();
        try (ModuleRunner runner = LOADER.load(LINEAR, "forward")) {
            Tensor[][] wrong = {
                {},
                {Tensor.of(new float[256], 1, 1, 256)},
                {Tensor.of(new long[33 * 256], 1, 33, 256)},
                {ZEROS, ZEROS},
            };
            for (Tensor[] inputs : wrong) {
                assertSentence("Cannot run `forward` of linear.pte: its inputs are not what the manifest says",
                        () -> runner.run("forward", inputs));
            }
            assertArrayEquals(new float[33 * 96], runner.run("forward", ZEROS)[0].floats(), 0f);
        }
        assertEquals(before, HybridData.live());
    }

    @Test
    public void aClosedRunnerSaysSo() throws Exception {
        ModuleRunner runner = LOADER.load(LINEAR, "forward");
        runner.close();
        runner.close();
        assertSentence("linear.pte", () -> runner.run("forward", ZEROS));
    }

    private interface Action {
        void run() throws RunnerException;
    }

    /** One line that begins with what was tried and goes on with what a person can do. */
    private static void assertSentence(String beginning, Action action) {
        RunnerException error = assertThrows(RunnerException.class, action::run);
        String message = error.getMessage();
        assertTrue(message, message.contains(beginning));
        assertFalse(message, message.contains("\n"));
        assertTrue(message, message.length() > beginning.length() + 10 && message.length() < 300);
    }

    private File write(String name, byte[] content) throws IOException {
        File file = new File(folder.getRoot(), name);
        Files.write(file.toPath(), content);
        return file;
    }
}
