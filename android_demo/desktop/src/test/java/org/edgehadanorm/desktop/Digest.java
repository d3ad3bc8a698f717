package org.edgehadanorm.desktop;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import org.edgehadanorm.core.Dtype;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Tensor;

/** SHA-256 in hex of tensors and pictures, as parity.py takes it. */
final class Digest {
    private final MessageDigest sha256;

    Digest() {
        try {
            sha256 = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error);
        }
    }

    static String of(Picture picture) {
        Digest digest = new Digest();
        for (int shift = 16; shift >= 0; shift -= 8) {
            for (int argb : picture.argb()) {
                digest.sha256.update((byte) (argb >> shift));
            }
        }
        return digest.hex();
    }

    void add(Tensor[] tensors) {
        for (Tensor tensor : tensors) {
            String title = tensor.dtype() + " " + Arrays.toString(tensor.shape()) + "\n";
            sha256.update(title.getBytes(StandardCharsets.UTF_8));
            sha256.update(bytes(tensor));
        }
    }

    String hex() {
        StringBuilder text = new StringBuilder();
        for (byte value : sha256.digest()) {
            text.append(String.format("%02x", value));
        }
        return text.toString();
    }

    private static byte[] bytes(Tensor tensor) {
        if (tensor.dtype() == Dtype.FLOAT32) {
            float[] values = tensor.floats();
            ByteBuffer bytes = ByteBuffer.allocate(Float.BYTES * values.length).order(ByteOrder.LITTLE_ENDIAN);
            bytes.asFloatBuffer().put(values);
            return bytes.array();
        }
        long[] values = tensor.longs();
        ByteBuffer bytes = ByteBuffer.allocate(Long.BYTES * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asLongBuffer().put(values);
        return bytes.array();
    }
}
