package org.edgehadanorm.demo;

import android.content.Context;
import android.media.ExifInterface;
import android.os.Build;
import java.io.File;
import java.io.InputStream;
import java.lang.reflect.Field;

/**
 * What this app uses of Android beyond API level 17, so that its sources also compile against an android.jar of that
 * age: names as texts, and the little that has to be called by reflection. All of it is public API.
 */
final class Api {
    /** Intent.ACTION_OPEN_DOCUMENT, level 19. */
    static final String OPEN_DOCUMENT = "android.intent.action.OPEN_DOCUMENT";
    /** Intent.EXTRA_MIME_TYPES, level 19. */
    static final String MIME_TYPES = "android.intent.extra.MIME_TYPES";
    /** MediaStore.MediaColumns.RELATIVE_PATH and IS_PENDING, level 29. */
    static final String RELATIVE_PATH = "relative_path";
    static final String IS_PENDING = "is_pending";
    private static final int Q = 29;

    private Api() {
    }

    /** Whether a picture can be put into the gallery without a permission. */
    static boolean canSaveToGallery() {
        return Build.VERSION.SDK_INT >= Q;
    }

    /** The app's own folder that no backup copies (level 21), or the one that is copied where that fails. */
    static File privateFolder(Context context) {
        try {
            return (File) Context.class.getMethod("getNoBackupFilesDir").invoke(context);
        } catch (ReflectiveOperationException error) {
            return context.getFilesDir();
        }
    }

    /** The first of Build.SUPPORTED_ABIS (level 21). */
    static String abi() {
        Object abis = field("SUPPORTED_ABIS");
        return abis instanceof String[] && ((String[]) abis).length > 0 ? ((String[]) abis)[0] : Build.CPU_ABI;
    }

    /** Maker and name of the chip where the system tells it (level 31), else the board's name. */
    static String chip() {
        Object maker = field("SOC_MANUFACTURER");
        Object model = field("SOC_MODEL");
        return maker instanceof String && model instanceof String ? maker + " " + model : Build.HARDWARE;
    }

    /** The Exif orientation of a picture file, by the constructor of ExifInterface of level 24; 1 where it has none. */
    static int orientation(InputStream file) {
        try {
            ExifInterface notes = ExifInterface.class.getConstructor(InputStream.class).newInstance(file);
            return notes.getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL);
        } catch (ReflectiveOperationException error) {
            return ExifInterface.ORIENTATION_NORMAL;
        }
    }

    private static Object field(String name) {
        try {
            Field field = Build.class.getField(name);
            return field.get(null);
        } catch (ReflectiveOperationException error) {
            return "";
        }
    }
}
