package org.edgehadanorm.core;

import java.io.DataInputStream;
import java.io.EOFException;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Reads safetensors files: the length of a JSON header as uint64, the header, the numbers, all little-endian. */
final class Safetensors {
    private static final int MOST_HEADER = 100 << 20;

    private Safetensors() {
    }

    /** The float32 and int64 tensors of a file by name. Throws BundleException for others and for a broken file. */
    static Map<String, Tensor> read(File file) throws BundleException {
        try (DataInputStream stream = new DataInputStream(new FileInputStream(file))) {
            long length = little(stream, 8).getLong();
            if (length < 0 || length > Math.min(MOST_HEADER, file.length())) {
                throw new EOFException("its header has " + length + " bytes");
            }
            Object header = Json.parse(new String(little(stream, (int) length).array(), StandardCharsets.UTF_8));
            long size = file.length() - 8 - length;
            if (!(header instanceof Map) || size > Integer.MAX_VALUE) {
                throw new IllegalArgumentException("its header is no object, or it has more than 2 GB");
            }
            return tensors((Map<?, ?>) header, little(stream, (int) size));
        } catch (IOException | RuntimeException error) {  // the latter for headers of another form
            throw new BundleException(file.getName() + " is truncated or not a safetensors file: " + Text.of(error)
                    + "; copy the bundle again", error);
        }
    }

    private static Map<String, Tensor> tensors(Map<?, ?> header, ByteBuffer data) throws BundleException {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (Map.Entry<?, ?> entry : header.entrySet()) {
            if (!"__metadata__".equals(entry.getKey())) {
                tensors.put((String) entry.getKey(), tensor((Map<?, ?>) entry.getValue(), data));
            }
        }
        return tensors;
    }

    private static Tensor tensor(Map<?, ?> entry, ByteBuffer data) throws BundleException {
        List<?> sizes = (List<?>) entry.get("shape");
        long[] shape = new long[sizes.size()];
        for (int i = 0; i < shape.length; i++) {
            shape[i] = (Long) sizes.get(i);
        }
        List<?> offsets = (List<?>) entry.get("data_offsets");
        int start = Math.toIntExact((Long) offsets.get(0));
        data.position(start);
        ByteBuffer own = data.slice().order(ByteOrder.LITTLE_ENDIAN);
        own.limit(Math.toIntExact((Long) offsets.get(1)) - start);
        if (entry.get("dtype").equals("F32")) {
            float[] values = new float[own.remaining() / Float.BYTES];
            own.asFloatBuffer().get(values);
            return Tensor.of(values, shape);
        }
        if (entry.get("dtype").equals("I64")) {
            long[] values = new long[own.remaining() / Long.BYTES];
            own.asLongBuffer().get(values);
            return Tensor.of(values, shape);
        }
        throw new BundleException("a tensor is " + entry.get("dtype") + ", not F32 or I64; export the bundle again");
    }

    private static ByteBuffer little(DataInputStream stream, int count) throws IOException {
        byte[] bytes = new byte[count];
        stream.readFully(bytes);
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }
}
