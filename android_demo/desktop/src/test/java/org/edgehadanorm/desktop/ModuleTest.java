package org.edgehadanorm.desktop;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import com.facebook.jni.HybridData;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.ExecutorchRuntimeException;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/** ExecuTorch's own classes on the natives of this folder: the bits of Python's runtime, and a phone's answers. */
public final class ModuleTest {
    private static final Path PROGRAMS = new File(System.getProperty("programs")).toPath();
    private static final String LINEAR = PROGRAMS.resolve("linear.pte").toString();
    private static final long[] SHAPE = {1, 33, 256};

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void aMethodGivesTheBitsOfPythonsRuntime() throws IOException {
        for (int mode : new int[] {Module.LOAD_MODE_FILE, Module.LOAD_MODE_MMAP}) {
            for (int threads : new int[] {0, 1, 2}) {
                try (Module module = Module.load(LINEAR, mode, threads)) {
                    assertArrayEquals(new String[] {"forward"}, module.getMethods());
                    String[] backends = module.getMethodMetadata("forward").getBackends();
                    assertArrayEquals(new String[] {"XnnpackBackend"}, backends);
                    Tensor output = module.forward(EValue.from(tensor(floats("linear.input"))))[0].toTensor();
                    assertArrayEquals(new long[] {1, 33, 96}, output.shape());
                    assertArrayEquals(floats("linear.output"), output.getDataAsFloatArray(), 0f);
                }
            }
        }
    }

    /** As on a phone: who keeps an output must copy it. */
    @Test
    public void anOutputIsTheMemoryThatTheNextCallWritesTo() throws IOException {
        try (Module module = Module.load(LINEAR, Module.LOAD_MODE_MMAP)) {
            Tensor first = module.forward(EValue.from(tensor(floats("linear.input"))))[0].toTensor();
            float[] kept = first.getDataAsFloatArray();
            module.forward(EValue.from(Tensor.zeros(SHAPE, org.pytorch.executorch.DType.FLOAT)));
            assertArrayEquals(floats("linear.output"), kept, 0f);
            assertArrayEquals(new float[kept.length], first.getDataAsFloatArray(), 0f);
        }
    }

    @Test
    public void aFileThatIsNoWholeProgramIsRefused() throws IOException {
        byte[] whole = Files.readAllBytes(new File(LINEAR).toPath());
        for (int length : new int[] {0, 7, 100, whole.length / 2, whole.length - 1}) {
            File file = folder.newFile();
            Files.write(file.toPath(), Arrays.copyOf(whole, length));
            for (int mode : new int[] {Module.LOAD_MODE_FILE, Module.LOAD_MODE_MMAP}) {
                RuntimeException error =
                        assertThrows(RuntimeException.class, () -> Module.load(file.getPath(), mode).close());
                assertTrue(error.toString(), error.getMessage().contains("Native Error: 0x"));
            }
        }
        assertThrows(IllegalArgumentException.class, () -> Module.load(LINEAR + ".missing"));
    }

    @Test
    public void whatAMethodIsNotMadeForIsRefused() throws IOException {
        try (Module module = Module.load(LINEAR, Module.LOAD_MODE_MMAP)) {
            EValue right = EValue.from(tensor(floats("linear.input")));
            EValue[][] wrong = {
                {EValue.from(Tensor.fromBlob(new float[256], new long[] {1, 1, 256}))},
                {EValue.from(Tensor.fromBlob(new long[33 * 256], SHAPE))},
                {right, right},
            };
            for (EValue[] inputs : wrong) {
                ExecutorchRuntimeException error =
                        assertThrows(ExecutorchRuntimeException.class, () -> module.forward(inputs));
                assertTrue(error.toString(), error.getMessage().contains("Execution failed for method: forward"));
                assertTrue(error.getDetailedError(), error.getDetailedError().contains(" E "));
            }
            assertThrows(RuntimeException.class, () -> module.execute("denoise", right));
            assertThrows(ExecutorchRuntimeException.class, () -> module.loadMethod("denoise"));
            float[] after = module.forward(right)[0].toTensor().getDataAsFloatArray();
            assertArrayEquals(floats("linear.output"), after, 0f);
        }
    }

    @Test
    public void aClosedModuleSaysSo() {
        int before = HybridData.live();
        Module module = Module.load(LINEAR, Module.LOAD_MODE_MMAP);
        assertEquals(before + 1, HybridData.live());
        module.close();
        module.close();
        assertEquals(before, HybridData.live());
        IllegalStateException error = assertThrows(IllegalStateException.class, () -> module.forward());
        assertEquals("Module has been destroyed", error.getMessage());
    }

    private static Tensor tensor(float[] values) {
        return Tensor.fromBlob(values, SHAPE);
    }

    private static float[] floats(String name) throws IOException {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(PROGRAMS.resolve(name))).order(ByteOrder.LITTLE_ENDIAN);
        float[] values = new float[bytes.remaining() / Float.BYTES];
        bytes.asFloatBuffer().get(values);
        return values;
    }
}
